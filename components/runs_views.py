"""Tables and figures of the Runs tab: pure functions from run directories to HTML and figure dictionaries."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from backend.config import field_meta, field_names
from backend.evaluation.guards import gap_in_words
from backend.runs import Run
from components.banner import TITLES
from components.context import MOST_LISTED, PageContext
from components.form import value_text
from components.markup import Raw, empty, number, table, text

STABILITY_WORDS = "variance of the last third over that of the first; above 1 means growing less stable"


def runs_table(context: PageContext) -> str:
    """All runs, newest first, with states in words."""
    summaries = context.store.list()
    if not summaries:
        return empty("No runs yet", "Press Start on the Train tab, or run `python -m backend train`: every run appears here, wherever it was started.")
    rows = [_row(s) for s in summaries[:MOST_LISTED]]
    head = ["Run", "State", "Policy", "Metric", "Episodes", "Score", "Best", "Base", "Gap closed", "Started", "Note"]
    more = f'<p class="caption">The newest {MOST_LISTED} of {len(summaries)} runs.</p>' if len(summaries) > MOST_LISTED else ""
    return table(head, rows) + more


def _row(summary: Any) -> list[Any]:
    state = TITLES.get(summary.state, summary.state) + (f": {summary.error}" if summary.state == "failed" and summary.error else "")
    if summary.damaged:
        state = f"Damaged: {summary.damaged}"
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.created)) if summary.created else "–"
    link = Raw(f'<a href="?run={text(summary.id)}" class="mono">{text(summary.id)}</a>')
    return [
        link,
        state,
        summary.mode,
        summary.metric,
        f"{summary.episode} / {summary.total}",
        number(summary.score),
        number(summary.best_score),
        number(summary.base_level),
        gap_in_words(summary) or "–",
        started,
        summary.note,
    ]


def _interval(row: dict[str, Any], low: str, high: str) -> str:
    if row.get(low) is None or not math.isfinite(row[low]):
        return "too few episodes"
    return f"{number(row[low], 2)} to {number(row[high], 2)}"


def convergence_table(runs: Sequence[Run]) -> str:
    """When and whether each run stopped learning."""
    from backend.analysis.comparison import convergence

    rows = []
    for run in runs:
        row = convergence(run)
        plateau = "none seen" if row["plateau_episode"] is None else f"from episode {row['plateau_episode']}"
        rows.append(
            [
                row["run"],
                row["episodes"],
                row["state"].lower(),
                number(row["slope"], 2),
                _interval(row, "low", "high"),
                plateau,
                number(row["base_level"]),
                number(row["over_base"]),
                number(row["change_since_start"]),
                number(row["best"]),
            ]
        )
    head = ["Run", "Episodes", "State", "Recent slope", "95 % interval", "Plateau", "Base", "Over base", "Change since start", "Best"]
    return table(head, rows, caption="Convergence (slope in score per episode)")


def diff_table(runs: Sequence[Run]) -> str:
    """Settings in which the runs differ."""
    from backend.analysis.comparison import config_diff

    found = config_diff(runs)
    if not found:
        return '<p class="caption">All settings are the same.</p>'
    rows = [[row["label"], *(value_text(row[run.id]) for run in runs)] for row in found]
    return table(["Setting", *(run.id for run in runs)], rows, caption="Settings that differ")


def evaluations_table(runs: Sequence[Run]) -> str:
    """How far each run that was evaluated closed the gap on test prompts, under which guards; empty where none was."""
    from backend.analysis.report import evaluation_rows

    rows, head = evaluation_rows(runs)
    shown = [[cell if isinstance(cell, str) else number(cell, 3) for cell in row] for row in rows]
    return table([cell.capitalize() for cell in head], shown, caption="Evaluation on test prompts") if rows else ""


def side_by_side(runs: Sequence[Run]) -> str:
    """Convergence and evaluation, and the differences where there is more than one run."""
    return convergence_table(runs) + evaluations_table(runs) + (diff_table(runs) if len(runs) > 1 else "")


def stability_table(run: Run) -> str:
    """Whether losses and gradients calmed down or grew wilder."""
    from backend.analysis.comparison import stability_of

    rows = [[name.replace("_", " "), number(s["ratio"], 3), number(s["variation"], 3)] for name, s in stability_of(run).items() if s["variance"]]
    return table(["Series", "Variance ratio", "Coefficient of variation"], rows, caption=f"Stability ({STABILITY_WORDS})") if rows else ""


def details(run: Run) -> str:
    """Convergence, stability, settings that differ from the defaults, and what the machine was."""
    changed = [
        [field_meta(n)["label"], value_text(getattr(run.config, n)), value_text(field_meta(n)["default"])]
        for n in field_names()
        if getattr(run.config, n) != field_meta(n)["default"]
    ]
    settings = (
        table(["Setting", "This run", "Default"], changed, caption="Settings that differ from the defaults") if changed else '<p class="caption">All settings are the defaults.</p>'
    )
    record = [[key, value if not isinstance(value, dict) else ", ".join(f"{k} {v}" for k, v in value.items())] for key, value in run.record.items()]
    checkpoints = ", ".join(c.name + (" (best)" if c.best else "") for c in run.checkpoints()) or "none"
    facts = table(["", ""], [["Checkpoints", checkpoints], *record], caption="Record")
    return convergence_table([run]) + stability_table(run) + settings + facts


def decomposition_figure(run: Run) -> dict[str, Any] | None:
    """Which reward components drove learning: signed share of the total's variance, as bars."""
    from backend.analysis.comparison import decomposition

    rows = [row for row in decomposition(run) if row["share"] is not None]
    if not rows:
        return None
    rows.sort(key=lambda row: abs(row["share"]))
    bars = {
        "type": "bar",
        "orientation": "h",
        "slot": 2,
        "x": [100 * row["share"] for row in rows],
        "y": [row["component"].replace("_", " ") for row in rows],
        "hovertemplate": "%{x:.1f} %<extra></extra>",
    }
    title = "share of what told images apart (%)"
    return {
        "key": run.id,
        "data": [bars],
        "layout": {"height": 80 + 30 * len(rows), "xaxis": {"title": {"text": title}}, "margin": {"l": 90, "r": 20, "t": 10, "b": 44}, "showlegend": False},
    }
