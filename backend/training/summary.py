"""The one-line summaries that go to the log and the terminal."""

from __future__ import annotations

from typing import Any

from backend.config import TrainConfig
from backend.config.schema import SMALLEST_SET

EVERY = 10  # episodes between two lines


def opening_lines(config: TrainConfig, trainable: int, clip_nats: float | None = None) -> list[str]:
    """What a run says when it begins."""
    clip = f"{clip_nats:g} nats" if clip_nats is not None else f"{config.clip_range_nats:g} nats"
    lines = [
        f"Training {trainable:,} parameters in {config.mode} mode ({config.algorithm})",
        f"{config.algorithm} settings: clip_range={clip}, lr_actor={config.learning_rate:g}, lr_critic={config.learning_rate_critic:g}",
        f"Gradient: {share:.0%} pathwise, {1 - share:.0%} sampled credit, which alone is clipped" if (share := config.pathwise_share) else "Gradient: sampled credit",
        f"Using {config.ensemble or config.metric} reward metric ({config.group_size} images a group: {config.prompts_per_group} prompts x {config.images_per_prompt})",
    ]
    if config.group_size < SMALLEST_SET:
        lines.append(
            f"{config.group_size} images a group are too few to differ: diversity needs company, so each is compared with the recent images of the queue; raise prompts_per_group"
        )
    return lines


def episode_line(row: dict[str, Any], total: int) -> str:
    """What a run says of an episode; `row` is one of policy_updates.csv."""
    numbers = ", ".join(f"{label}={_digits(row.get(name))}" for label, name in (("reward", "batch_score"), ("actor_loss", "actor_loss"), ("critic_loss", "critic_loss")))
    return f"Episode {row['episode']}/{total}: {numbers}"


def is_due(episode: int, total: int) -> bool:
    """Whether an episode gets a line: the first, every tenth and the last."""
    return episode == 1 or episode % EVERY == 0 or episode == total


def _digits(value: Any) -> str:
    return "not finite" if value is None else f"{value:.4f}"
