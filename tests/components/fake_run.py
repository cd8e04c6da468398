"""Writes a run directory as the trainer would, so that the page can be tested without training."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
from PIL import Image

from backend.config import make_config
from backend.runs import Run, RunStore
from backend.runs.tables import TABLES, TableWriter


def write_fake_run(root: Path, episodes: int = 40, state: str = "completed", samples: int = 4, changes: int = 1, **values: object) -> Run:
    """A run with a learning curve, sample grids, events, a log and one checkpoint folder.

    Args:
        root: folder of runs.
        episodes: rows of the update table.
        state: state in status.json.
        samples: number of sample grids.
        changes: number of live changes.
        values: settings.
    """
    store = RunStore(root)
    run = store.create(make_config({"episodes": max(episodes, 1), **values}))
    write_rows(run, 0, episodes)
    generator = np.random.default_rng(0)
    for i in range(samples):
        write_sample(run, round(i * episodes / max(samples - 1, 1)), generator)
    events = [{"seq": 1, "time": time.time(), "kind": "status", "state": "running", "episode": 0}]
    events += [{"seq": 2 + i, "time": time.time(), "kind": "change", "field": "guidance_scale", "value": 5.0 - i, "episode": episodes // 2 + i} for i in range(changes)]
    run.events_path.write_text("".join(json.dumps(e) + "\n" for e in events), encoding="utf-8")
    run.log_path.write_text("\n".join(f"episode {i}: score {score(i):.4f}" for i in range(episodes)) + "\n", encoding="utf-8")
    levels = {"score": score(episodes), "best_score": score(episodes), "base_level": -0.2, "reference_level": 0.0}
    set_status(run, state=state, episode=episodes, total=episodes, seconds_per_episode=2.5, device="cpu", **levels)
    return run


def score(episode: int) -> float:
    """A curve that rises and levels off."""
    return -0.2 + 0.15 * (1 - math.exp(-episode / 15)) + 0.01 * math.sin(1.7 * episode)


def write_rows(run: Run, start: int, stop: int) -> None:
    """Rows of policy_updates.csv for episodes from `start` to before `stop`."""
    writer = TableWriter(run.logs_dir / "policy_updates.csv", [*TABLES["policy_updates"], "component_diversity", "component_quality"])
    rows = []
    for i in range(start, stop):
        rows.append(
            {
                "update": i,
                "episode": i,
                "batch_score": score(i),
                "reward_mean": 0.0,
                "base_level": -0.2,
                "reference_level": 0.0,
                "best_score": max(score(j) for j in range(max(0, i - 5), i + 1)),
                "probe_score": score(i) if i % 10 == 0 else None,
                "probe_quality": 0.2 if i % 10 == 0 else None,
                "actor_loss": -0.01 * math.cos(i / 7),
                "critic_loss": 1 / (1 + i),
                "entropy_loss": 0.001,
                "kl_divergence": 0.5 + 0.1 * math.sin(i),
                "kl_base": 0.05 * i,
                "clip_fraction_up": 0.04,
                "clip_fraction_down": 0.03,
                "sample_diversity": 3 + score(i),
                "grad_norm_actor": 0.9,
                "grad_norm_actor_after": 0.5,
                "grad_norm_critic": 0.4,
                "ratio_mean": 1.0,
                "ratio_max": 1.2,
                "learning_rate": 3e-4,
                "images": 16 * (i + 1),
                "time_per_episode": 2.5,
                "memory_allocated": 900.0,
                "component_diversity": score(i),
                "component_quality": 0.5,
                "status": "LEARNING",
            }
        )
    writer.append(rows)


def write_sample(run: Run, episode: int, generator: np.random.Generator, prompt: str = "aerial view of fresh mars craters") -> None:
    """One grid of four by two tiles with its description."""
    side, gap, columns, rows = 64, 2, 4, 2
    sheet = np.zeros((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), np.uint8)
    images = []
    for i in range(columns * rows):
        x, y = (i % columns) * (side + gap), (i // columns) * (side + gap)
        sheet[y : y + side, x : x + side] = crater(generator, side, 0.15 + 0.02 * i + 0.001 * episode)
        explanation = {"attraction": 0.2, "repulsion": -0.1, "companion": (i + 1) % 8, "companion_kind": "group", "note": "far from the others"}
        credit = {"credit": 0.3 * (-1) ** i, "raw_credit": 0.01, "components": {"diversity": 0.2}, "explanation": explanation}
        images.append({"index": i, "prompt": prompt, "seed": 100 + i, "box": [x, y, side, side], **credit})
    name = f"episode_{episode:06d}"
    Image.fromarray(sheet).save(run.images_dir / f"{name}.png")
    about = {"episode": episode, "columns": columns, "rows": rows, "tile": [side, side], "gap": gap, "score": score(episode), "images": images}
    (run.images_dir / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


def crater(generator: np.random.Generator, side: int, radius: float) -> np.ndarray:
    """A shaded ring on a noisy plain, uint8 [side, side, 3]."""
    y, x = (np.mgrid[:side, :side] / side - 0.5) * 2
    r = np.hypot(x, y)
    light = 0.55 + 0.35 * np.exp(-(((r - 2 * radius) / 0.1) ** 2)) * (-x - y) + 0.04 * generator.standard_normal((side, side))
    return (np.clip(light[..., None] * np.array([0.95, 0.62, 0.42]), 0, 1) * 255).astype(np.uint8)


def set_status(run: Run, **fields: object) -> None:
    """Replace fields of status.json."""
    known = json.loads(run.status_path.read_text(encoding="utf-8"))
    run.status_path.write_text(json.dumps({**known, **fields, "heartbeat": known.get("heartbeat", 0) + 1}), encoding="utf-8")
