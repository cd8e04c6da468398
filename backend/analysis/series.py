"""Curves of a run as arrays, thinned for drawing without losing their peaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backend.runs import Run
from backend.runs.tables import PROBED

MOST_POINTS = 1000  # more than a chart's pixels; what the browser redraws at every update


def schedule_lines(policy: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Implied betas [T] to draw of a policy that plans them: the stock schedule's, and mean, smallest and largest over its prompts; empty for other policies.

    Args:
        policy: `describe` of a policy for some prompts.
    """
    betas = np.array(policy.get("betas") or [])
    if not betas.size:
        return {}
    return {"stock schedule": np.array(policy["stock_betas"]), "mean over prompts": betas.mean(0), "smallest": betas.min(0), "largest": betas.max(0)}


def numbers(values: Sequence[object]) -> np.ndarray:
    """Cells as float64, NaN for blanks and words: [n]."""
    return np.array([value if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan for value in values], dtype=np.float64)


def columns(run: Run, table: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Columns of one of the run's tables, one float64 array [n] each; names it lacks are left out.

    Args:
        run: the run.
        table: `policy_updates`, `training_log`, `memory_usage`, `gradient_log`, `reward_components`, `log_probability`.
        names: columns wanted; None takes all.
    """
    raw, _, _ = run.read_columns(table, 0, list(names) if names is not None else None)
    return {name: numbers(values) for name, values in raw.items()}


def probes(run: Run) -> list[float]:
    """Scores of the run's probes (fixed test prompts and seeds) in the order of their episodes, the base's first.

    Where the guidance was changed the base was probed again, and what came before does not compare.
    """
    events = [event for event in run.events() if event.get("kind") == "probe" and isinstance(event.get("episode"), int)]
    begin = max((event["episode"] for event in events if event.get("renewed")), default=0)
    found = {event["episode"]: event.get("score") for event in events if event["episode"] >= begin}
    return [float(found[episode]) for episode in sorted(found) if isinstance(found[episode], (int, float))]


def probe_gains(events: Sequence[Mapping[str, Any]], data: Mapping[str, Sequence[Any]]) -> dict[str, list[float | None]]:
    """What each probe has gained over the base's own: the same prompts and seeds, so the luck of a group's prompts is not in it.

    Args:
        events: of the run, in order; those of kind "probe" tell what the base scores, anew where the guidance changed.
        data: policy_updates by column, rows in order: `episode` and the probes.

    Returns:
        Columns `gain_score`, `gain_quality` and `gain_adherence`, a number where a row has a probe, and `gain_none`, 0 in each row that has a base to compare with.
    """
    bases = {e["episode"]: e for e in events if e.get("kind") == "probe" and isinstance(e.get("episode"), int | float) and (e["episode"] == 0 or e.get("renewed"))}
    starts, episodes = sorted(bases), numbers(data.get("episode", ()))
    place = np.searchsorted(starts, episodes - 1, side="right") - 1  # a base that was probed anew holds from the next episode on
    out: dict[str, list[float | None]] = {"gain_none": [0.0 if i >= 0 else None for i in place]}
    for name in PROBED:
        level = numbers([bases[start].get(name) for start in starts])
        values = numbers(data.get(f"probe_{name}", [None] * len(episodes)))
        gain = [values[row] - level[i] if i >= 0 else np.nan for row, i in enumerate(place)]
        out[f"gain_{name}"] = [float(g) if np.isfinite(g) else None for g in gain]
    return out


def steady(data: dict[str, np.ndarray], name: str = "batch_score") -> np.ndarray:
    """A score's values since guidance or share of the reference set last changed, which moves it by itself; `data` has the column `trend_from`, if the run does."""
    first = data.get("trend_from", np.zeros(0))
    first = first[np.isfinite(first)]
    return data.get(name, np.zeros(0))[int(first[-1]) - 1 if len(first) else 0 :]


def latest(values: np.ndarray) -> float:
    """The last finite value; NaN where there is none."""
    found = values[np.isfinite(values)]
    return float(found[-1]) if len(found) else float("nan")


def present(values: np.ndarray | None) -> bool:
    """Whether there is anything finite to draw."""
    return values is not None and bool(np.isfinite(values).any())


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points of a curve: each bin's lowest and highest in their order, so that no peak is lost.

    Points that are not finite are left out first.

    Args:
        x: [n]; y: [n], in drawing order.
        most: even number of points, at least 2.
    """
    keep = np.isfinite(y) & np.isfinite(x)
    x, y = x[keep], y[keep]
    if len(y) <= most:
        return x, y
    chosen = []
    for part in np.array_split(np.arange(len(y)), most // 2):
        chosen += sorted({int(part[y[part].argmin()]), int(part[y[part].argmax()])})
    return x[chosen], y[chosen]


def smooth(values: np.ndarray, span: int = 10) -> np.ndarray:
    """Exponential moving average with its start-up corrected, over finite values: [n] -> [n]."""
    decay = 1 - 2 / (span + 1)
    total = weight = 0.0
    out = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        if weight:
            out[i] = total / weight
    return out
