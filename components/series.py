"""From a run's update table to chart data: at most 1,000 points a series, extremes kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from backend.analysis.series import schedule_lines
from components.charts import CHARTS, Chart, Trace

MAX_POINTS = 1000
BAND_EPISODES = 8


DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def _finite(value: Any) -> float | None:
    return None if value is None or isinstance(value, str) or not math.isfinite(value) else float(value)


def bins(length: int, limit: int = MAX_POINTS) -> list[tuple[int, int]]:
    """Half-open ranges of rows, each of which gives its smallest and its largest value; ranges of one row when all fit.

    Args:
        length: number of rows.
        limit: most points of a series.
    """
    if length <= limit:
        return [(i, i + 1) for i in range(length)]
    count = limit // 2
    edges = [round(i * length / count) for i in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def thin(values: Sequence[Any], ranges: Sequence[tuple[int, int]]) -> list[float | None]:
    """Values at the bins: one a row, or smallest and largest of each bin in the order in which they occur."""
    if not ranges or ranges[-1][1] == len(ranges):
        return [_round(_finite(v)) for v in values[: len(ranges)]]
    out: list[float | None] = []
    for start, stop in ranges:
        part = [(value, i) for i, raw in enumerate(values[start:stop]) if (value := _finite(raw)) is not None]
        if not part:
            out += [None, None]
            continue
        low, high = min(part), max(part)
        first, second = (low, high) if low[1] <= high[1] else (high, low)
        out += [_round(first[0]), _round(second[0])]
    return out


def places(values: Sequence[Any], ranges: Sequence[tuple[int, int]]) -> list[float | None]:
    """Horizontal positions of the points that `thin` gives: a bin's first and last row."""
    if not ranges or ranges[-1][1] == len(ranges):
        return [_round(_finite(v)) for v in values[: len(ranges)]]
    return [_round(_finite(values[i])) if i < len(values) else None for start, stop in ranges for i in (start, stop - 1)]


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def band(values: Sequence[Any], span: int = BAND_EPISODES) -> tuple[list[float | None], list[float | None]]:
    """Moving mean ∓ one standard deviation, exponentially weighted over about `span` episodes."""
    weight, mean, square = 2 / (span + 1), None, 0.0
    low: list[float | None] = []
    high: list[float | None] = []
    for value in values:
        value = _finite(value)
        if value is not None:
            step = value - mean if mean is not None else 0.0
            mean = value if mean is None else mean + weight * step
            square = (1 - weight) * (square + weight * step * step)
        spread = math.sqrt(square)
        low.append(None if mean is None else mean - spread)
        high.append(None if mean is None else mean + spread)
    return low, high


def axes(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Episode, minutes of training (pauses left out) and images drawn, row by row."""
    minutes, total = [], 0.0
    for seconds in columns.get("time_per_episode", []):
        total += (_finite(seconds) or 0.0) / 60
        minutes.append(total)
    return {"episode": columns.get("episode", []), "minutes": minutes, "images": columns.get("images", [])}


def plan_charts(policy: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Charts and their horizontal axes of what a policy plans; empty for policies that plan nothing.

    Args:
        policy: `SchedulerPolicy.describe` of some prompts.
    """
    lines = schedule_lines(policy)
    if not lines:
        return {}, {}
    styles = ((7, "dash"), (2, "solid"), (1, "dot"), (3, "dot"))
    plan = [
        {"name": name, "slot": slot, "dash": dash, "kind": "level", "axis": "plan", "y": [_round(v) for v in y]}
        for (name, y), (slot, dash) in zip(lines.items(), styles, strict=True)
    ]
    prompts = policy["guidance"]
    chosen = [
        {"name": "learned", "slot": 2, "dash": "solid", "kind": "points", "axis": "prompts", "y": [_round(v) for v in prompts]},
        {"name": "stock", "slot": 7, "dash": "dash", "kind": "level", "axis": "prompts", "y": [policy["stock_guidance"]] * len(prompts)},
    ]
    axes_of = {
        name: dict.fromkeys(("episode", "minutes", "images"), list(range(1, count + 1))) for name, count in (("plan", len(policy["stock_betas"])), ("prompts", len(prompts)))
    }
    return {"plan": plan, "plan_guidance": chosen}, axes_of


def base_levels(columns: Mapping[str, list[Any]]) -> list[Any]:
    """The base's level for each row: the newest under the guidance and share of the reference set of its time, since the mean settles as more base groups are drawn."""
    levels, since = columns["base_level"], columns.get("trend_from", [])
    newest: dict[Any, Any] = {}
    keys = [since[i] if i < len(since) else None for i in range(len(levels))]
    for key, level in zip(keys, levels, strict=True):
        if _finite(level) is not None:
            newest[key] = level
    return [newest.get(key) for key in keys]


def chart_payload(
    run_id: str, columns: dict[str, list[Any]], changes: Sequence[dict[str, Any]] = (), policy: Mapping[str, Any] | None = None, probe_images: int | None = None
) -> dict[str, Any]:
    """What the live charts draw.

    Args:
        run_id: with its attempt, the name under which a zoom is kept.
        columns: policy_updates.csv by column, rows in order; beside them the gains of `probe_gains`.
        changes: events of kind "change": `{episode, field, value}`.
        policy: what the latest sample says of its policy.
        probe_images: images of a probe, for the legend.

    Returns:
        `{run, axes: {u: {episode, minutes, images}}, charts: {key: {unit, points, traces}}, marks}`; charts of a plan have `across`,
        the words of their own axis, which stands beside `u` under its name.
    """
    positions = axes(columns)
    ranges = bins(len(positions["episode"]))
    charts = {}
    plans, plan_axes = plan_charts(policy or {})
    size = f", {probe_images} images" if probe_images else ""
    columns = {**columns, "base_level": base_levels(columns)} if "base_level" in columns else columns
    for chart in CHARTS:
        if chart.across:
            charts[chart.key] = {"unit": chart.unit, "points": len(positions["episode"]), "traces": plans.get(chart.key, []), "across": chart.across}
            continue
        traces = [t for t in _traces(chart, columns) if any(_finite(v) is not None for v in columns.get(t.column, []))]
        drawn = [{"name": t.name.replace("{size}", size), "slot": t.slot, "dash": t.dash, "kind": t.kind, "axis": "u", "y": thin(columns[t.column], ranges)} for t in traces]
        if chart.key == "reward" and traces:
            low, high = band(columns["batch_score"])
            drawn.insert(0, {"name": "± 1 std", "slot": 2, "dash": "solid", "kind": "band", "axis": "u", "low": thin(low, ranges), "high": thin(high, ranges)})
        charts[chart.key] = {"unit": chart.unit, "points": len(positions["episode"]), "traces": drawn}
    return {
        "run": run_id,
        "axes": {"u": {name: places(values, ranges) for name, values in positions.items()}, **plan_axes},
        "charts": charts,
        "marks": [_mark(c, positions) for c in changes],
    }


def _traces(chart: Chart, columns: dict[str, list[Any]]) -> list[Trace]:
    if not chart.prefix:
        return [t for t in chart.traces if t.column in columns]
    names = [c for c in columns if c.startswith(chart.prefix)]
    return [Trace(c, c.removeprefix(chart.prefix).replace("_", " "), i % 7 + 1, DASHES[i % len(DASHES)]) for i, c in enumerate(names)]


def _mark(change: dict[str, Any], positions: dict[str, list[Any]]) -> dict[str, Any]:
    episode = _finite(change.get("episode")) or 0.0
    row = next((i for i, e in enumerate(positions["episode"]) if (_finite(e) or 0) >= episode), len(positions["episode"]) - 1)
    at = {name: (_round(_finite(values[row])) if 0 <= row < len(values) else 0) for name, values in positions.items()}
    label = f"{change.get('field', '')} → {change.get('value', '')}"
    return {"episode": episode, "minutes": at["minutes"], "images": at["images"], "label": label.replace("<", "‹").replace(">", "›").replace("&", "＆")[:60]}
