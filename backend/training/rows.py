"""One episode's figures as rows of the run's tables."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from backend.runs.files import finite
from backend.training.memory import allocated


@dataclass
class EpisodeRecord:
    """Everything that is known of one episode.

    Attributes:
        episode: its number, from 1.
        index: prompt index [B]; seeds [B].
        result: the reward function's `RewardResult`.
        stats: the update's figures by name.
        log_probs: [K, B] per action element in nats.
        seconds: how long it took.
        memory: see `memory_row`.
        facts: columns that the trainer itself knows (levels, trend, knobs).
    """

    episode: int
    index: list[int]
    seeds: list[int]
    result: Any
    stats: dict[str, float]
    log_probs: torch.Tensor
    seconds: float
    memory: dict[str, float]
    device: torch.device
    facts: dict[str, Any]


def update_row(record: EpisodeRecord) -> dict[str, Any]:
    """The row of policy_updates.csv: what charts are drawn from."""
    total = record.result.total.detach().float().cpu()
    return {
        **{name: float(value) for name, value in record.stats.items()},
        "update": record.episode,
        "episode": record.episode,
        "batch_score": record.result.score,
        "reward_mean": float(total.mean()),
        "reward_std": float(total.std(unbiased=False)),
        "reward_min": float(total.min()),
        "reward_max": float(total.max()),
        "time_per_episode": round(record.seconds, 4),
        "memory_allocated": allocated(record.memory, record.device),
        "timestamp": round(time.time(), 3),
        **{f"component_{name}": float(values.float().mean()) for name, values in record.result.raw_components.items()},
        **record.facts,
    }


def image_rows(record: EpisodeRecord) -> list[dict[str, Any]]:
    """One row of training_log.csv per image."""
    parts = {name: values.tolist() for name, values in record.result.components.items()}
    shared = {name: record.stats.get(name) for name in ("actor_loss", "critic_loss", "entropy_loss", "kl_divergence", "grad_norm_actor", "grad_norm_critic")}
    shared |= {
        "episode": record.episode,
        "batch_score": record.result.score,
        "memory_allocated": allocated(record.memory, record.device),
        "timestamp": round(time.time(), 3),
        "time_per_episode": round(record.seconds, 4),
        "status": record.facts.get("status"),
    }
    names = {f"reward_{part}": part for part in ("diversity", "sequential", "spatial", "entropy", "quality")}
    return [
        {
            **shared,
            "prompt_idx": prompt,
            "image": i,
            "seed": record.seeds[i],
            "reward_total": float(record.result.total[i]),
            **{column: parts[part][i] for column, part in names.items() if part in parts},
        }
        for i, prompt in enumerate(record.index)
    ]


def component_rows(record: EpisodeRecord) -> list[dict[str, Any]]:
    """One row of reward_components.csv per image: every component, normalised and raw."""
    columns = {name: values.tolist() for name, values in record.result.components.items()}
    columns |= {f"{name}_raw": values.tolist() for name, values in record.result.raw_components.items()}
    totals = record.result.total.tolist()
    return [
        {"episode": record.episode, "prompt_idx": prompt, "image": i, "total": totals[i], **{name: values[i] for name, values in columns.items()}}
        for i, prompt in enumerate(record.index)
    ]


def gradient_row(record: EpisodeRecord) -> dict[str, Any]:
    """The row of gradient_log.csv."""
    stats = record.stats
    return {
        "update": record.episode,
        "episode": record.episode,
        "actor_grad_before": stats.get("grad_norm_actor"),
        "actor_grad_after": stats.get("grad_norm_actor_after"),
        "critic_grad": stats.get("grad_norm_critic"),
        "grad_clipped": bool(stats.get("grad_clipped")),
        "reward_mean": float(record.result.total.float().mean()),
        "timestamp": round(time.time(), 3),
    }


def log_prob_rows(record: EpisodeRecord) -> list[dict[str, Any]]:
    """One row of log_probability.csv per image and trained step, in nats per action element."""
    now, values = round(time.time(), 3), record.log_probs.detach().float().cpu().tolist()
    return [
        {"episode": record.episode, "prompt_idx": prompt, "step": k, "log_prob": row[i], "requires_grad": False, "time": now}
        for k, row in enumerate(values)
        for i, prompt in enumerate(record.index)
    ]


def all_rows(record: EpisodeRecord) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table, None for numbers that are not finite."""
    rows = {
        "training_log": image_rows(record),
        "reward_components": component_rows(record),
        "gradient_log": [gradient_row(record)],
        "memory_usage": [{"update": record.episode, "episode": record.episode, **record.memory, "timestamp": round(time.time(), 3)}],
        "log_probability": log_prob_rows(record),
        "policy_updates": [update_row(record)],
    }
    return finite(rows)


def sample_diversity(features: torch.Tensor) -> float:
    """Mean distance between the images of a group in standardised features [B, D], per root dimension; 0 for one image."""
    if len(features) < 2:
        return 0.0
    return float(torch.pdist(features.double()).mean() / math.sqrt(features.shape[1]))
