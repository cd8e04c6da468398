"""Three HTML components with their own scripts: live charts that keep their zoom, a server-made figure, the sample filmstrip.

Their values are data for the scripts, never markup. Plain `gr.HTML` takes any JSON value; the templates are static, so
new data redraws the charts in place and nothing is rebuilt.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr

from components.charts import CHARTS, Chart
from components.markup import text
from components.theme import asset, script


def plotly_file() -> Path:
    """The chart library's own file inside the installed plotly package."""
    return Path(importlib.util.find_spec("plotly").origin).parent / "package_data" / "plotly.min.js"


def plotly_url() -> str:
    """Address of the chart library on this server; nothing comes from a network."""
    return f"gradio_api/file={plotly_file()}"


def live_charts(**settings: Any) -> gr.HTML:
    """All charts of one run. Value: see `components.series.chart_payload`."""
    main = "".join(_card(chart) for chart in CHARTS if not chart.more)
    more = "".join(_card(chart) for chart in CHARTS if chart.more)
    bar = asset("html/charts_bar.html")
    template = f'{bar}<div class="charts-grid">{main}</div><details class="more-charts"><summary>More charts</summary><div class="charts-grid">{more}</div></details>'
    return gr.HTML(value=None, html_template=template, js_on_load=script("plotly_loader.js") + script("live_chart.js"), plotly=plotly_url(), **settings)


def _card(chart: Chart) -> str:
    wide = " wide" if chart.wide else ""
    return (
        f'<section class="chart-card{wide}" data-chart="{text(chart.key)}" aria-label="{text(chart.title)}"><h3>{text(chart.title)}</h3>'
        f'<p>{text(chart.sentence)}<span class="chart-scale"></span></p>'
        f'<div class="chart-div" id="chart-{text(chart.key)}"></div></section>'
    )


def figure(*, pictures: bool = False, **settings: Any) -> gr.HTML:
    """One figure. Value: `{key, data, layout}` as Plotly has them, and a `note` that stands above; a trace may name a palette `slot` 1–7 instead of a colour.

    Args:
        pictures: show the picture under the pointer; its address and words are a point's `customdata`.
        settings: of the component.
    """
    frame = '<figure class="figure-picture" hidden><img alt="image under the pointer"><figcaption></figcaption></figure>' if pictures else ""
    template = f'<div class="figure-box"><p class="note note-warn figure-note" role="status" hidden></p><div class="figure-div"></div>{frame}</div>'
    return gr.HTML(value=None, html_template=template, js_on_load=script("plotly_loader.js") + script("figure.js"), plotly=plotly_url(), **settings)


def filmstrip(**settings: Any) -> gr.HTML:
    """Sample grids over the episodes with a scrubber. Value: `{run, samples: [{episode, png, json}], denoising: [...]}` of addresses."""
    return gr.HTML(value=None, html_template=asset("html/filmstrip.html"), js_on_load=script("filmstrip.js"), **settings)
