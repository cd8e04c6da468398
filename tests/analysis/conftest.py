"""A run directory written by the protocol's own writers, with curves whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.config import TrainConfig
from backend.runs import TABLES, Run, RunStore
from backend.runs.tables import TableWriter


def write_run(store: RunStore, config: TrainConfig, score: np.ndarray) -> Run:
    """A run with `score` as its curve, two components (total = 1.0 diversity + 0.1 spatial = 2a + b), and a grid of four at episodes 0 and n - 1."""
    run = store.create(config)
    generator = np.random.default_rng(config.seed)
    writer = TableWriter(run.logs_dir / "policy_updates.csv", [*TABLES["policy_updates"], "component_diversity"])
    clipped = TableWriter(run.logs_dir / "gradient_log.csv", TABLES["gradient_log"])
    writer.append(
        {name: 0.5 + 0.001 * i for name in TABLES["policy_updates"] if name not in ("status", "timestamp", "trend_from")}
        | {"update": i, "episode": i, "batch_score": float(value), "base_level": 0.1, "reference_level": 0.9, "component_diversity": float(value) * 2,
         "actor_loss": float(generator.normal()), "grad_norm_actor": 1.0 + i, "grad_norm_actor_after": 0.5, "entropy": 0.7, "sample_diversity": 0.2}
        for i, value in enumerate(score)
    )  # fmt: skip
    used = TableWriter(run.logs_dir / "memory_usage.csv", TABLES["memory_usage"])
    used.append(dict.fromkeys(TABLES["memory_usage"], i) for i in range(len(score)))
    clipped.append({"update": i, "episode": i, "grad_clipped": i % 2 == 0} for i in range(len(score)))
    parts = TableWriter(run.logs_dir / "reward_components.csv", [*TABLES["reward_components"], "diversity", "spatial", "diversity_raw"])
    draws = generator.normal(size=(len(score), 4, 2))
    parts.append(
        {"episode": i, "prompt_idx": j, "image": j, "diversity": float(2 * a), "spatial": float(10 * b), "diversity_raw": 7.0, "total": float(2 * a + b)}
        for i, row in enumerate(draws)
        for j, (a, b) in enumerate(row)
    )
    for episode in (0, len(score) - 1):
        write_sample(run, episode, generator)
    return run


def write_sample(run: Run, episode: int, generator: np.random.Generator) -> None:
    """A 2 x 2 grid of 32-pixel images with its description."""
    sheet = generator.integers(0, 255, (66, 66, 3), dtype=np.uint8)
    path = run.images_dir / f"episode_{episode:06d}.png"
    Image.fromarray(sheet).save(path)
    boxes = [[x, y, 32, 32] for y in (0, 34) for x in (0, 34)]
    path.with_suffix(".json").write_text(json.dumps({"episode": episode, "images": [{"index": i, "box": box, "prompt": "p"} for i, box in enumerate(boxes)]}))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """`make_run(score, **config)` writes one run."""
    store = RunStore(tmp_path / "runs")

    def make(score: np.ndarray | None = None, **changes: object) -> Run:
        t = np.arange(120)
        curve = 0.1 + 0.01 * np.minimum(t, 50) + np.random.default_rng(0).normal(size=120) * 0.03 if score is None else np.asarray(score)
        return write_run(store, TrainConfig(**changes), curve)

    return make
