"""The one-line summaries that go to the log and the terminal."""

from __future__ import annotations

from typing import Any

from backend.config import METRICS, POLICIES, TrainConfig
from backend.config.ensemble import parse_ensemble
from backend.config.schema import SMALLEST_SET

EVERY = 10  # episodes between two lines


def opening_lines(config: TrainConfig, trainable: int, clip_nats: float | None = None) -> list[str]:
    """What a run says when it begins."""
    clip = f"{clip_nats:g} nats" if clip_nats is not None else f"{config.clip_range_nats:g} nats"
    lines = [
        f"Training {trainable:,} parameters in {config.mode} mode ({config.algorithm})",
        f"{config.algorithm} settings: clip_range={clip}, lr_actor={config.learning_rate:g}, lr_critic={config.learning_rate_critic:g}",
        f"Gradient: {share:.0%} pathwise, {1 - share:.0%} sampled credit, which alone is clipped"
        if (share := config.pathwise_share)
        else f"Gradient: sampled credit, for {why_sampled(config)}",
        f"Using {config.ensemble or config.metric} reward metric ({config.group_size} images a group: {config.prompts_per_group} prompts x {config.images_per_prompt})",
    ]
    if config.group_size < SMALLEST_SET:
        lines.append(
            f"{config.group_size} images a group are too few to differ: diversity needs company, so each is compared with the recent images of the queue; raise prompts_per_group"
        )
    return lines


def why_sampled(config: TrainConfig) -> str:
    """Why no share of an update follows the reward's own derivative; empty where some does."""
    metrics = [part.metric for part in parse_ensemble(config.ensemble, config.extractor)] or [config.metric]
    flat = [entry.name for entry in (POLICIES.get(config.mode), *map(METRICS.get, metrics)) if not entry.differentiable]
    if config.pathwise_share:
        return ""
    if not config.pathwise:
        return "the pathwise share is 0"
    if flat:
        return f"{' and '.join(dict.fromkeys(flat))} {'has' if len(set(flat)) == 1 else 'have'} no derivative here"
    if config.group_size < SMALLEST_SET:
        return f"a group of {config.group_size} is too small to be a set"
    return f"credit {config.advantage!r} and reward mode {config.reward_mode!r} have no derivative: both must be 'difference'"


def episode_line(row: dict[str, Any], total: int) -> str:
    """What a run says of an episode; `row` is one of policy_updates.csv."""
    numbers = ", ".join(f"{label}={_digits(row.get(name))}" for label, name in (("reward", "batch_score"), ("actor_loss", "actor_loss"), ("critic_loss", "critic_loss")))
    return f"Episode {row['episode']}/{total}: {numbers}"


def is_due(episode: int, total: int) -> bool:
    """Whether an episode gets a line: the first, every tenth and the last."""
    return episode == 1 or episode % EVERY == 0 or episode == total


def _digits(value: Any) -> str:
    return "not finite" if value is None else f"{value:.4f}"
