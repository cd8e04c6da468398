"""Figures as PNG files without a browser: the same dictionaries drawn by matplotlib."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from backend.analysis.figures import PALETTE, Figure

DASH = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 2, 3))}
MARKER = {"circle": "o", "diamond": "D", "cross": "P", "square": "s", "triangle-up": "^", "x": "X"}


def plain(text: Any) -> str:
    """Text that matplotlib does not read as mathematics."""
    return str(text or "").replace("$", r"\$")


def colour(value: Any, index: int) -> Any:
    """A trace's colour in matplotlib's terms; the palette's where there is none."""
    found = re.fullmatch(r"rgb\((\d+),\s*(\d+),\s*(\d+)\)", str(value or ""))
    return tuple(int(part) / 255 for part in found.groups()) if found else value or PALETTE[index % len(PALETTE)]


def draw_trace(axes: Any, trace: dict[str, Any], index: int) -> None:
    """Lines, markers or bars of one trace."""
    line, marker = trace.get("line", {}), trace.get("marker", {})
    if trace["type"] == "bar":
        axes.bar([plain(x) for x in trace["x"]], trace["y"], label=plain(trace.get("name")), color=colour(marker.get("color"), index))
    elif trace.get("mode", "lines") == "markers":
        style = {"marker": MARKER.get(marker.get("symbol"), "o"), "s": 18, "alpha": marker.get("opacity", 0.8)}
        axes.scatter(trace["x"], trace["y"], label=plain(trace.get("name")), color=colour(marker.get("color"), index), **style)
    else:
        style = {"linestyle": DASH.get(line.get("dash"), "-"), "linewidth": line.get("width", 2), "alpha": trace.get("opacity", 1.0)}
        style |= {"marker": "o", "markersize": 4} if "markers" in trace.get("mode", "lines") else {}
        axes.plot(trace["x"], trace["y"], label=plain(trace.get("name")), color=colour(line.get("color"), index), **style)


def write_png(figure: Figure, path: Path, width: float = 9.0, height: float = 4.6) -> Path:
    """Draw a figure of this package.

    Args:
        figure: `{"data", "layout"}`.
        path: PNG to write.
        width, height: inches at 120 dots each.
    """
    words = figure["layout"]
    canvas = Canvas(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    second = axes.twinx() if "yaxis2" in words else None
    for index, trace in enumerate(figure["data"]):
        draw_trace(second if second is not None and trace.get("yaxis") == "y2" else axes, trace, index)
    for shape in words.get("shapes", []):
        if shape.get("type") == "line" and shape.get("x0") == shape.get("x1"):
            axes.axvline(shape["x0"], color="0.6", linestyle=":", linewidth=1)
    axes.set_title(plain(words["title"]["text"]))
    axes.set_xlabel(plain(words["xaxis"]["title"]["text"]))
    axes.set_ylabel(plain(words["yaxis"]["title"]["text"]))
    axes.set_yscale(words["yaxis"].get("type", "linear"))
    if second is not None:
        second.set_ylabel(plain(words["yaxis2"]["title"]["text"]))
    handles = [*axes.get_legend_handles_labels()[0], *(second.get_legend_handles_labels()[0] if second is not None else [])]
    if handles:
        axes.legend(handles, [handle.get_label() for handle in handles], fontsize=8, loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path)
    return path
