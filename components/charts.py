"""The charts of the live view: which columns of policy_updates.csv each draws, and what to look for."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Trace:
    """One series: column of policy_updates.csv, name in the legend, palette slot 1–7 and dash (never colour alone)."""

    column: str
    name: str
    slot: int
    dash: str = "solid"
    kind: str = "line"


@dataclass(frozen=True)
class Chart:
    """One card of the live view; `sentence` says what to look for."""

    key: str
    title: str
    sentence: str
    unit: str
    traces: tuple[Trace, ...] = ()
    wide: bool = False
    more: bool = False
    prefix: str = field(default="", kw_only=True)
    across: str = field(default="", kw_only=True)  # what is along the horizontal axis, where that is not time; such a chart shows the latest sample's policy


CHARTS = (
    Chart(
        "reward",
        "Group score",
        "Raw score of each group of images; up is more diverse. Single groups jump, for each draws other prompts; the band is one standard deviation over recent "
        "episodes. The base's line is the mean of all its groups so far and settles as more are drawn.",
        "score",
        (
            Trace("batch_score", "group score", 2),
            Trace("base_level", "base model, mean of groups", 7, "dash", "level"),
            Trace("reference_level", "reference set", 1, "dot", "level"),
            Trace("best_score", "best so far", 3, "dashdot", "level"),
        ),
        wide=True,
    ),
    Chart(
        "gain",
        "Gain over the base",
        "Score of the probe's images minus the base's: the same prompts and seeds each time, so this shows learning best. Rising from 0 is learning.",
        "score",
        (Trace("gain_score", "gain in score{size}", 4, "solid", "trail"), Trace("gain_none", "base model", 7, "dash", "level")),
    ),
    Chart(
        "cost",
        "What variety must not cost",
        "Realism and prompt relevance of the same images, each minus the base's. Below 0 something was lost; what is paid for can rise in vain, so evaluate.",
        "difference",
        (
            Trace("gain_quality", "realism", 2, "solid", "trail"),
            Trace("gain_adherence", "prompt relevance", 3, "dot", "trail"),
            Trace("gain_none", "base model", 7, "dash", "level"),
        ),
    ),
    Chart("components", "Reward components", "Mean raw value of every part of the reward.", "raw value", prefix="component_"),
    Chart(
        "loss",
        "Losses",
        "Surrogate on sampled credit (whatever its share in the update), critic and entropy term.",
        "loss",
        (Trace("actor_loss", "policy", 2), Trace("critic_loss", "critic", 1, "dash"), Trace("entropy_loss", "entropy", 3, "dot")),
    ),
    Chart(
        "kl",
        "KL divergence",
        "How far the update moved from the old policy and from the base model.",
        "nats per step",
        (Trace("kl_divergence", "to old policy", 2), Trace("kl_base", "to base model", 1, "dash")),
    ),
    Chart(
        "clip",
        "Clipped share",
        "Share of ratios beyond the clip range. Sampled credit is cut there; the pathwise gradient holds no ratio, so at share 1 zero is its normal.",
        "share",
        (Trace("clip_fraction_up", "above", 2), Trace("clip_fraction_down", "below", 1, "dash")),
    ),
    Chart("diversity", "Sample diversity", "Spread of each group in feature space.", "distance", (Trace("sample_diversity", "sample diversity", 3),)),
    Chart(
        "gradients",
        "Gradient norms",
        "Before and after clipping, and the critic's.",
        "norm",
        (Trace("grad_norm_actor", "policy", 2), Trace("grad_norm_actor_after", "policy, clipped", 4, "dot"), Trace("grad_norm_critic", "critic", 1, "dash")),
    ),
    Chart(
        "ratio",
        "Probability ratio",
        "New over old policy for the same actions; starts at 1.",
        "ratio",
        (Trace("ratio_mean", "mean", 2), Trace("ratio_max", "largest", 1, "dash"), Trace("ratio_std", "standard deviation", 3, "dot")),
        more=True,
    ),
    Chart(
        "entropy",
        "Spread of the policy",
        "Mean logarithm of the actions' standard deviation: by how many nats an action element's entropy exceeds a unit Gaussian's, so mostly below zero. "
        "Constant by construction where the scheduler sets the noise (LORA_UNET).",
        "mean log std",
        (Trace("entropy", "log standard deviation", 2),),
        more=True,
    ),
    Chart(
        "coefficients",
        "Adapted coefficients",
        "Entropy and KL coefficients as the controllers set them.",
        "coefficient",
        (Trace("entropy_coef", "entropy", 2), Trace("kl_base_coef", "KL to base", 1, "dash")),
        more=True,
    ),
    Chart(
        "weights",
        "What must not be lost weighs",
        "Weights of realism and prompt relevance in the reward. With a multipliers' rate they grow beyond the settings while the policy's images lie below the base's "
        "of the same prompts and seeds, and fall back after.",
        "weight",
        (Trace("weight_quality", "realism", 2), Trace("weight_adherence", "prompt relevance", 3, "dot")),
        more=True,
    ),
    Chart(
        "advantage",
        "Credit",
        "Spread of advantages, and how well the critic explains the reward.",
        "value",
        (Trace("advantage_std", "advantage, std", 2), Trace("explained_variance", "explained variance", 1, "dash")),
        more=True,
    ),
    Chart(
        "distance",
        "Distance to the base",
        "Shift of the mean action from the base model's, in standard deviations of the step's noise.",
        "standard deviations",
        (Trace("distance_to_base", "to the base", 2),),
        more=True,
    ),
    Chart(
        "noise",
        "Gradient noise scale",
        "Group size at which noise and signal of the gradient weigh the same (McCandlish et al. 2018). Far above the group's size, larger groups learn more steadily.",
        "images",
        (Trace("gradient_noise_scale", "noise scale", 2),),
        more=True,
    ),
    Chart(
        "dropped",
        "Left out",
        "Groups without variation (1: the whole group was dropped), and updates that the KL stopped early.",
        "share",
        (Trace("degenerate_share", "degenerate group", 2), Trace("early_stopped", "stopped early", 1, "dash")),
        more=True,
    ),
    Chart(
        "plan",
        "Learned schedule",
        "SCHEDULER_POLICY: the noise that each denoising step stands for (implied beta), for the prompts of the latest sample, beside the stock schedule.",
        "implied beta",
        more=True,
        across="denoising step",
    ),
    Chart(
        "plan_guidance",
        "Learned guidance",
        "SCHEDULER_POLICY: guidance that the policy takes for each prompt of the latest sample.",
        "guidance",
        more=True,
        across="prompt of the sample",
    ),
    Chart("memory", "Memory", "Memory allocated by the trainer.", "MiB", (Trace("memory_allocated", "allocated", 2),), more=True),
    Chart("time", "Time per episode", "Sampling, scoring and updating together.", "seconds", (Trace("time_per_episode", "seconds", 2),), more=True),
)
