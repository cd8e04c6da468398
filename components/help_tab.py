"""The Help tab: how it works in one picture, the glossary from the config's own words, limits, citation."""

from __future__ import annotations

import gradio as gr

from backend.config import EXTRACTORS, GROUPS, METRICS, POLICIES, field_meta, field_names
from components.charts import CHARTS
from components.markup import table, text
from components.theme import asset


def glossary(group: str) -> str:
    """All settings of one group with their own help texts, bounds and defaults."""
    items = []
    for name in field_names(group):
        meta = field_meta(name)
        live = ' <span class="tag tag-accent">live knob</span>' if meta["live"] else ""
        items.append(
            f"<dt>{text(meta['label'])} <code>{text(name)}</code>{live}</dt><dd>{text(meta['help'])} Default: {text(meta['default'] if meta['default'] != '' else 'empty')}.</dd>"
        )
    return f'<dl class="glossary">{"".join(items)}</dl>'


def build() -> None:
    """Lay out the tab."""
    gr.Markdown(asset("html/intro.md"), elem_classes="prose")
    gr.HTML(asset("html/loop.svg"), elem_classes="plain-html")
    gr.HTML(table(["Policy", "What it does"], [[e.name, e.sentence] for e in POLICIES]), elem_classes="plain-html")
    rewards = [[e.name, e.sentence, "its own derivative" if e.differentiable else "sampled credit, less sure"] for e in METRICS]
    gr.HTML(table(["Reward metric", "What it rewards", "Learns by"], rewards), elem_classes="plain-html")
    with gr.Accordion("Feature extractors", open=False):
        gr.HTML(table(["Extractor", "What it is", "Download"], [[e.name, e.sentence, e.download or "none"] for e in EXTRACTORS]), elem_classes="plain-html")
    with gr.Accordion("How to read the charts", open=False):
        gr.HTML(table(["Chart", "What it shows"], [[c.title, c.sentence] for c in CHARTS]), elem_classes="plain-html")
    gr.HTML('<h2 class="section-title">Glossary of settings</h2>', elem_classes="plain-html")
    for group in GROUPS:
        with gr.Accordion(group, open=False):
            gr.HTML(glossary(group), elem_classes="plain-html")
    gr.Markdown(asset("html/limits.md"), elem_classes="prose")
