"""One run on one page: a self-contained HTML file and a Markdown file. Everything that came from outside is escaped."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from backend.analysis import comparison
from backend.analysis.feature_figures import evolution, sample_grid
from backend.analysis.figures import FIGURES, Figure
from backend.evaluation.guards import verdict_of
from backend.evaluation.results import LEVELS
from backend.runs import Run
from backend.runs.files import finite

STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #8886;padding:.25rem .6rem;text-align:left;vertical-align:top}
img{max-width:100%;image-rendering:auto}.chart{height:380px;margin:1rem 0;background:#fff}.wide{overflow-x:auto}
"""
SAFE_LINE = re.compile(r"([\\`*_{}\[\]<>()#+!|~-])")


def text_of(value: Any) -> str:
    """A value in words: four significant digits, a dash for what is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def html_table(rows: list[list[Any]], head: list[str]) -> str:
    """HTML table with every cell escaped."""
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text_of(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def markdown_cell(value: Any) -> str:
    """Text that Markdown shows as it is: control characters of the syntax escaped, one line."""
    return SAFE_LINE.sub(r"\\\1", " ".join(text_of(value).split())) if isinstance(value, str) else text_of(value)


def markdown_table(rows: list[list[Any]], head: list[str]) -> str:
    """Markdown table with every cell escaped."""
    lines = ["| " + " | ".join(markdown_cell(cell) for cell in line) + " |" for line in [head, *rows]]
    return "\n".join([lines[0], "|" + " --- |" * len(head), *lines[1:]])


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, NaN as null."""
    text = json.dumps(finite(value))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def sections(run: Run) -> list[tuple[str, list[list[Any]], list[str]]]:
    """The report's tables: (title, rows, head)."""
    status, config = run.status(), run.config
    overview = [["Policy", config.mode], ["Reward", config.metric], ["State", status.state], ["Episodes", f"{status.episode} of {status.total}"]]
    overview += [["Seed", config.seed], ["Note", config.note], ["Base model", config.base_model]]
    found = [("Run", overview, ["What", "Value"])]
    evaluation = run.evaluation()
    if evaluation:
        found.append(("Evaluation on test prompts", _evaluation_rows(evaluation), ["Measure", *map(str.capitalize, LEVELS), "Difference or share", "95 % interval"]))
    rows = [[key.replace("_", " "), value] for key, value in comparison.convergence(run).items() if key not in ("run", "mode", "metric")]
    found.append(("Convergence", rows, ["What", "Value"]))
    parts = [[row["component"], row["weight"], row["share"], row["slope"], row["low"], row["high"]] for row in comparison.decomposition(run)]
    if parts:
        found.append(("Reward decomposition", parts, ["Component", "Weight", "Share of the reward's spread", "Slope per episode", "Low", "High"]))
    stable = [[name.replace("_", " "), item["ratio"], item["variation"]] for name, item in comparison.stability_of(run).items()]
    if stable:
        found.append(("Stability", stable, ["Curve", "Variance, last third / first third", "Coefficient of variation"]))
    default = type(config)()
    changed = [[name, getattr(config, name), getattr(default, name)] for name in type(config).model_fields if getattr(config, name) != getattr(default, name)]
    found.append(("Settings that differ from the defaults", changed, ["Setting", "Here", "Default"]))
    alerts = [[event.get("episode"), event.get("message", event.get("text", ""))] for event in run.events() if event.get("kind") == "alert"]
    if alerts:
        found.append(("Alerts", alerts, ["Episode", "Message"]))
    return found


def _evaluation_rows(evaluation: dict[str, Any]) -> list[list[Any]]:
    rows = []
    for row in evaluation.get("table", []):
        interval = f"{text_of(row.get('low'))} to {text_of(row.get('high'))}"
        rows.append([row.get("measure"), *map(row.get, LEVELS), row.get("estimate"), interval])
    return rows


def figures_of(run: Run) -> dict[str, Figure]:
    """All charts of the run that have something to show."""
    found = {name: draw(run) for name, draw in FIGURES.items()}
    if run.images():
        found["evolution"] = evolution(run, "pca")
    return {name: figure for name, figure in found.items() if figure["data"]}


def _picture(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def page_of(title: str, parts: list[str], figures: dict[str, Figure]) -> str:
    """One HTML document that needs no network.

    Args:
        title: plain text, escaped here.
        parts: HTML whose foreign text is escaped already.
        figures: charts that follow the parts.
    """
    charts = "".join(f'<div class="chart" id="chart-{html.escape(name)}"></div>' for name in figures)
    script = f"const figures={script_json(figures)};for(const [n,f] of Object.entries(figures))Plotly.newPlot('chart-'+n,f.data,f.layout,{{responsive:true}});"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{html.escape(title)}</h1>{''.join(parts)}{charts}<script>{script}</script>"
    return f"<!doctype html><html lang=en><head>{head}<script>{get_plotlyjs()}</script></head><body>{body}</body></html>"


def report_html(run: Run) -> str:
    """The whole report as one HTML document that needs no network; nothing is written into the run."""
    parts = []
    for title, rows, head in sections(run):
        parts += [f"<h2>{html.escape(title)}</h2>", html_table(rows, head)]
    grid, judged = sample_grid(run), run.path / "evaluation.png"
    if grid is not None:
        buffer = io.BytesIO()
        grid.save(buffer, "PNG")
        parts.append(_picture(buffer.getvalue(), "The same seeds through the episodes"))
    if judged.is_file() and not judged.is_symlink():  # a run from elsewhere must not carry a file of this machine into its report
        parts.append(_picture(judged.read_bytes(), "Base above tuned, same prompt and seed"))
    return page_of(f"Run {run.id}", parts, figures_of(run))


def evaluation_rows(runs: Sequence[Run]) -> tuple[list[list[Any]], list[str]]:
    """One row for each run that was evaluated, and the head: images, share of the gap closed with its interval, whether the guards were kept."""
    rows = []
    for run in runs:
        if e := run.evaluation():
            gap = {} if e.get("gap_closed") is None else e["gap"].get("lite2", {})
            rows.append([run.id, e.get("images"), e.get("gap_closed"), gap.get("low"), gap.get("high"), verdict_of(e["guards"])])
    return rows, ["run", "images", "gap closed", "low", "high", "guards kept"]


def comparison_tables(runs: Sequence[Run]) -> list[tuple[str, list[list[Any]], list[str]]]:
    """Tables of two to six runs: convergence, evaluation, settings that differ."""
    found = [comparison.convergence(run) for run in runs]
    keys = ["run", "mode", "metric", "episodes", "state", "slope", "low", "high", "plateau_episode", "base_level", "last", "change_since_start", "over_base"]
    tables = [("Convergence", [[row[key] for key in keys] for row in found], [key.replace("_", " ") for key in keys])]
    rows, head = evaluation_rows(runs)
    if rows:
        tables.append(("Evaluation on test prompts", rows, head))
    differ = [[row["label"], *[row[run.id] for run in runs]] for row in comparison.config_diff(runs)]
    tables.append(("Settings that differ", differ, ["setting", *[run.id for run in runs]]))
    return tables


def comparison_html(runs: Sequence[Run]) -> str:
    """Two to six runs on one page: overlaid curves, policies compared, tables.

    Raises:
        InputError: fewer than two runs, or more than six.
    """
    said = comparison.unlike(runs)
    parts = [f"<p><strong>{html.escape(said)}</strong></p>"] if said else []
    for title, rows, head in comparison_tables(runs):
        parts += [f"<h2>{html.escape(title)}</h2>", html_table(rows, head)]
    return page_of("Runs compared", parts, {"overlay": comparison.overlay(runs), "policies": comparison.policy_comparison(runs)})


def report_markdown(run: Run) -> str:
    """The report's tables in Markdown."""
    parts = [f"# Run {markdown_cell(run.id)}"]
    for title, rows, head in sections(run):
        parts += [f"## {title}", markdown_table(rows, head)]
    return "\n\n".join(parts) + "\n"


def write_report(run: Run, folder: Path | None = None) -> tuple[Path, Path]:
    """Write `report.html` and `report.md`.

    Args:
        run: the run.
        folder: where; by default the run's `plots`.

    Returns:
        Both paths.
    """
    folder = folder or run.plots_dir
    folder.mkdir(parents=True, exist_ok=True)
    page, plain = folder / "report.html", folder / "report.md"
    page.write_text(report_html(run), encoding="utf-8")
    plain.write_text(report_markdown(run), encoding="utf-8")
    return page, plain
