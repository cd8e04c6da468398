"""One denoising step: the only place that computes a step's mean, std and log-prob, for the sampler and the replay alike.

DDIM (Song et al. 2021, arXiv 2010.02502, equations 12 and 16); as a policy: DDPO (Black et al. 2023, arXiv 2305.13301, section 4.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

LOG_2PI = math.log(2 * math.pi)
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def _per_element(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(dim=1)


@dataclass
class Gaussian:
    """A diagonal Gaussian over actions; every figure is a mean over action elements, not a sum.

    Attributes:
        mean: [m, ...] float32.
        log_std: broadcastable to `mean`, float32.
    """

    mean: torch.Tensor
    log_std: torch.Tensor

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """The action for standard normal numbers [m, ...]."""
        return self.mean + self.log_std.exp() * noise

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """Log-density per action element in nats [m]."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return _per_element(-0.5 * z.square() - self.log_std - 0.5 * LOG_2PI)

    def relative_entropy(self) -> torch.Tensor:
        """Entropy per action element in nats, above that of a unit Gaussian: the mean log std [m]."""
        return _per_element(self.log_std.expand_as(self.mean))

    def kl_from(self, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
        """Exact KL(old || self) per action element in nats, `old` given by its mean and log std [m]."""
        variance_ratio = torch.exp(2 * (log_std - self.log_std))
        shift = ((mean - self.mean) * torch.exp(-self.log_std)).square()
        return _per_element(0.5 * (variance_ratio + shift - 1) + (self.log_std - log_std))

    def mean_shift_kl(self, mean: torch.Tensor) -> torch.Tensor:
        """KL per action element between Gaussians of this std at `mean` and at this mean [m]; no gradient to the std."""
        return _per_element(0.5 * ((self.mean - mean) * torch.exp(-self.log_std.detach())).square())


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.to(torch.float64).reshape(-1, *[1] * (like.ndim - 1))


def predict_clean(latents: torch.Tensor, prediction: torch.Tensor, alpha: torch.Tensor, prediction_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The clean latents and the noise that a model output stands for.

    Args:
        latents: x_t [m, C, H, W] float32.
        prediction: model output [m, C, H, W].
        alpha: cumulative alpha at t [m].
        prediction_type: `epsilon`, `v_prediction` (Salimans & Ho 2022, arXiv 2202.00512, appendix D) or `sample`.

    Returns:
        Clean latents and noise, [m, C, H, W] float32 each.
    """
    prediction = prediction.float()
    a = _column(alpha, latents)
    signal, noise = a.sqrt().float(), (1 - a).sqrt().float()
    if prediction_type == "epsilon":
        clean, epsilon = (latents - noise * prediction) / signal, prediction
    elif prediction_type == "v_prediction":
        clean, epsilon = signal * latents - noise * prediction, signal * prediction + noise * latents
    elif prediction_type == "sample":
        clean, epsilon = prediction, (latents - signal * prediction) / noise
    else:
        raise ValueError(f"prediction_type {prediction_type!r}: use epsilon, v_prediction or sample")
    return clean, epsilon


def ddim_log_std(alpha: torch.Tensor, alpha_prev: torch.Tensor, eta: float) -> torch.Tensor:
    """log sigma_t of DDIM's stochastic step (2010.02502, equation 16) [m] float32."""
    a, p = alpha.to(torch.float64), alpha_prev.to(torch.float64)
    variance = (1 - p) / (1 - a) * (1 - a / p)
    return (math.log(eta) + 0.5 * variance.log()).float()


def denoise(clean: torch.Tensor, epsilon: torch.Tensor, alpha_prev: torch.Tensor, log_std: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of x_{t-1}: the deterministic DDIM step, or with `log_std` [m] the mean of the stochastic one.

    Args:
        clean: predicted x_0 [m, C, H, W].
        epsilon: predicted noise [m, C, H, W].
        alpha_prev: cumulative alpha at the step's end [m].
        log_std: log sigma_t [m], None for sigma 0.

    Returns:
        [m, C, H, W] float32.
    """
    p = _column(alpha_prev, clean)
    variance = 0.0 if log_std is None else _column(log_std, clean).mul(2).exp()
    return p.sqrt().float() * clean + (1 - p - variance).clamp(min=0).sqrt().float() * epsilon


def stochastic_step(latents: torch.Tensor, prediction: torch.Tensor, alpha: torch.Tensor, alpha_prev: torch.Tensor, eta: float, prediction_type: str) -> Gaussian:
    """The distribution of x_{t-1} given x_t and the model's output; shapes as in `predict_clean`."""
    clean, epsilon = predict_clean(latents, prediction, alpha, prediction_type)
    log_std = ddim_log_std(alpha, alpha_prev, eta)
    return Gaussian(denoise(clean, epsilon, alpha_prev, log_std), log_std.reshape(-1, *[1] * (latents.ndim - 1)))
