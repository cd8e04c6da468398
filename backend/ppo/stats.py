"""What one update reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class UpdateStats:
    """Figures of one update; all floats, none NaN.

    Losses are means over (image, step) pairs; `actor_loss` is the surrogate on sampled credit, whatever its share in the update.
    `entropy` is per action element in nats above a unit Gaussian; `kl_divergence` (exact, to the
    policy that sampled) and `kl_base` (to the base model) are in joint nats per denoising step; ratios are per action element, as in the loss.
    `clip_fraction_up` / `_down`: share of pairs beyond 1+eps / below 1-eps. `gradient_noise_scale`: McCandlish et al. 2018 (1812.06162), images.
    `distance_to_base`: RMS shift of the mean in units of the step's std.
    """

    actor_loss: float = 0.0
    critic_loss: float = 0.0
    entropy_loss: float = 0.0
    entropy: float = 0.0
    entropy_coef: float = 0.0
    kl_divergence: float = 0.0
    kl_base: float = 0.0
    kl_base_coef: float = 0.0
    ratio_mean: float = 1.0
    ratio_std: float = 0.0
    ratio_max: float = 1.0
    clip_fraction_up: float = 0.0
    clip_fraction_down: float = 0.0
    explained_variance: float = 0.0
    advantage_std: float = 0.0
    degenerate_share: float = 0.0
    grad_norm_actor: float = 0.0
    grad_norm_actor_after: float = 0.0
    grad_norm_critic: float = 0.0
    grad_clipped: float = 0.0
    gradient_noise_scale: float = 0.0
    skipped_nonfinite: float = 0.0
    early_stopped: float = 0.0
    optimiser_steps: float = 0.0
    samples_used: float = 0.0
    replayed_dropped: float = 0.0
    distance_to_base: float = 0.0
    learning_rate: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """By name, for logs."""
        return asdict(self)
