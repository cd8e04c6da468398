"""Several runs beside each other: curves, settings that differ, convergence, reward decomposition, stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.analysis.convergence import plateau, slope_interval, stability, trend
from backend.analysis.figures import PALETTE, Figure, layout, line
from backend.analysis.series import columns, latest, present, probes, smooth, steady
from backend.errors import InputError
from backend.runs import Run

MOST_RUNS = 6
NOT_A_SETTING = ("schema_version", "note")
DECIDE_THE_SCORE = {"metric": "metric", "ensemble": "ensemble", "extractor": "extractor", "group_size": "images in a group", "reference": "reference set"}


def _check(runs: Sequence[Run], least: int = 1) -> None:
    if not least <= len(runs) <= MOST_RUNS:
        raise InputError(f"{len(runs)} runs were chosen: choose {least} to {MOST_RUNS}")


def unlike(runs: Sequence[Run]) -> str:
    """Why the scores of runs are on no common scale, as a sentence; empty where they are."""
    found = {words: list(dict.fromkeys(str(getattr(run.config, name)) for run in runs)) for name, words in DECIDE_THE_SCORE.items()}
    differ = [f"{words} ({', '.join(value or 'none' for value in values)})" for words, values in found.items() if len(values) > 1]
    return f"These runs differ in {' and '.join(differ)}: their scores have different scales and do not compare." if differ else ""


def _noted(figure: Figure, runs: Sequence[Run]) -> Figure:
    """The figure with a `note` where the scores of its runs do not compare."""
    said = unlike(runs)
    return {**figure, "note": said} if said else figure


def overlay(runs: Sequence[Run], column: str = "batch_score", relative: bool = False) -> Figure:
    """One column of `policy_updates` of 1 to 6 runs in one chart, as moving averages.

    Args:
        runs: the runs.
        column: which curve.
        relative: subtract each run's base level under the guidance and reference of the time, so that runs with different bases can share an axis; a run without one
            is left out.

    Returns:
        The figure; with a sentence `note` where the runs' scores do not compare.

    Raises:
        InputError: no run, or more than six.
    """
    _check(runs)
    traces = []
    for index, run in enumerate(runs):
        data = columns(run, "policy_updates", ["episode", column, "base_level", "trend_from"])
        values = data.get(column)
        if not present(values):
            continue
        if relative:
            if not present(data.get("base_level")):
                continue
            values = values - _base_levels(data)
        traces.append(line(f"{run.config.mode} {run.config.metric} ({run.id})", data["episode"], smooth(values), index))
    return _noted({"data": traces, "layout": layout("Runs overlaid", column.replace("_", " ") + (" minus base" if relative else ""))}, runs)


def _base_levels(data: dict[str, np.ndarray]) -> np.ndarray:
    """The base's level [n] that each episode compares with: the newest under its own guidance and share of the reference set."""
    levels, since = data["base_level"], np.nan_to_num(data.get("trend_from", np.zeros(0)))
    if len(since) != len(levels):
        return np.full(len(levels), latest(levels))
    found = np.empty(len(levels))
    for start in np.unique(since):
        found[since == start] = latest(levels[since == start])
    return found


def config_diff(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Settings in which the runs differ.

    Returns:
        One row per field: `field`, `label`, and one value per run id, in the order of the config.

    Raises:
        InputError: fewer than two runs, or more than six.
    """
    _check(runs, 2)
    dumps = [run.config.model_dump() for run in runs]
    rows = []
    for name, info in type(runs[0].config).model_fields.items():
        values = [dump[name] for dump in dumps]
        if name not in NOT_A_SETTING and any(value != values[0] for value in values):
            label = (info.json_schema_extra or {}).get("label", name) if not callable(info.json_schema_extra) else name
            rows.append({"field": name, "label": label, **{run.id: value for run, value in zip(runs, values, strict=True)}})
    return rows


def convergence(run: Run) -> dict[str, Any]:
    """When and whether the run stopped learning.

    Returns:
        `episodes`, `state`, `slope` with `low` and `high` of the recent window (score per episode), `overall_slope` with
        interval over the whole run, `plateau_episode` or None, `first` and `last` (means of the first and last tenth, at
        least five episodes), `change_since_start` = last - first, `base_level` (the newest), `over_base` = last - base level (None without one), `best`. All but
        `overall_slope` are of the episodes since guidance or share of the reference set last changed, which moves the score by itself.
    """
    data = columns(run, "policy_updates", ["episode", "batch_score", "base_level", "trend_from"])
    score = data.get("batch_score", np.zeros(0))
    counted = steady(data)
    recent, overall, at = trend(counted, probes(run)), slope_interval(score), plateau(data)
    finite = counted[np.isfinite(counted)]
    part = max(5, len(finite) // 10)
    first, last = (float(p.mean()) if len(p) else None for p in (finite[:part], finite[-part:]))
    base = latest(data["base_level"]) if present(data.get("base_level")) else None
    return {
        "run": run.id, "mode": run.config.mode, "metric": run.config.metric, "episodes": len(score), "state": recent.state,
        "slope": recent.slope, "low": recent.low, "high": recent.high,
        "overall_slope": overall[0], "overall_low": overall[1], "overall_high": overall[2],
        "plateau_episode": int(at) if at is not None else None,
        "first": first, "last": last, "change_since_start": last - first if len(finite) else None,
        "base_level": base, "over_base": last - base if len(finite) and base is not None else None,
        "best": float(finite.max()) if len(finite) else None,
    }  # fmt: skip


def policy_comparison(runs: Sequence[Run]) -> Figure:
    """Bars of the last score over the base by run, grouped by mode, the original's policy comparison; with a `note` as `overlay`. A run without a base's level is left out."""
    _check(runs)
    traces = []
    for index, mode in enumerate(sorted({run.config.mode for run in runs})):
        found = [convergence(run) for run in runs if run.config.mode == mode]
        found = [row for row in found if row["over_base"] is not None]
        gains = [row["over_base"] for row in found]
        text = [row["state"] for row in found]
        traces.append({"type": "bar", "name": mode, "x": [row["run"] for row in found], "y": gains, "text": text, "marker": {"color": PALETTE[index % len(PALETTE)]}})
    return _noted({"data": traces, "layout": layout("Policies compared", "group score over the base", "Run")}, runs)


def decomposition(run: Run) -> list[dict[str, Any]]:
    """Which components drive learning.

    The reward of an image is a weighted sum of normalised components, so the covariance of a weighted component with the
    total over images, divided by the total's variance, is the share of what told images apart; shares sum to one as long
    as no weight was changed while training. A negative share worked against the others.

    Returns:
        One row per component: `component`, `weight`, `share` (None where it cannot be computed), `slope` with `low` and
        `high` (change per episode of the episode mean of the normalised component).
    """
    table = columns(run, "reward_components")
    total, episode = table.get("total"), table.get("episode")
    names = [name for name in table if hasattr(run.config, f"{name}_weight") and present(table[name])]
    if not names or not present(total):
        return []
    numbers = np.unique(episode[np.isfinite(episode)])
    rows = []
    for name in names:
        weight = float(getattr(run.config, f"{name}_weight"))
        both = np.isfinite(table[name]) & np.isfinite(total)
        values, whole = weight * table[name][both], total[both]
        variance = float(np.var(whole)) if both.any() else 0.0
        share = float(np.mean((values - values.mean()) * (whole - whole.mean())) / variance) if variance > 0 else None
        slope, low, high = slope_interval(_means_by(episode, table[name], numbers))
        rows.append({"component": name, "weight": weight, "share": share, "slope": slope, "low": low, "high": high})
    return rows


def _means_by(episode: np.ndarray, values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean of the finite values of each episode: [len(numbers)], NaN where there are none."""
    keep = np.isfinite(values) & np.isfinite(episode)
    index = np.searchsorted(numbers, episode[keep])
    count = np.bincount(index, minlength=len(numbers))
    total = np.bincount(index, weights=values[keep], minlength=len(numbers))
    return np.divide(total, count, out=np.full(len(numbers), np.nan), where=count > 0)


def stability_of(run: Run) -> dict[str, dict[str, Any]]:
    """Gradient and loss variance over time: column -> what `convergence.stability` returns."""
    wanted = ["actor_loss", "critic_loss", "entropy_loss", "grad_norm_actor", "grad_norm_critic", "kl_divergence"]
    data = columns(run, "policy_updates", wanted)
    return {name: stability(data[name]) for name in wanted if present(data.get(name))}
