"""Colours and type of the page: a quiet instrument with one rust accent, no downloaded font."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

ASSETS = Path(__file__).resolve().parent.parent / "assets"

RUST = gr.themes.Color("#fdf5f0", "#f9e6da", "#f1c9b2", "#e7a582", "#db7f53", "#c4592d", "#a94720", "#8a391b", "#6d2f1a", "#552817", "#30140a", name="rust")
REGOLITH = gr.themes.Color("#faf8f6", "#f3f0ec", "#e6e1da", "#d3ccc3", "#a79e94", "#7c736a", "#5d554e", "#423c37", "#2a2623", "#1c1917", "#131110", name="regolith")
SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]
# Theme variable: light, dark.
COLOURS = {
    "body_background_fill": ("*neutral_50", "*neutral_950"),
    "body_text_color": ("*neutral_900", "#ece7e1"),
    "body_text_color_subdued": ("*neutral_600", "#a89f95"),
    "background_fill_primary": ("#ffffff", "#1b1816"),
    "background_fill_secondary": ("*neutral_100", "#221f1c"),
    "block_background_fill": ("#ffffff", "#1b1816"),
    "block_border_color": ("*neutral_200", "#35302b"),
    "border_color_primary": ("*neutral_200", "#35302b"),
    "block_label_text_color": ("*neutral_600", "#b6ada3"),
    "block_title_text_color": ("*neutral_800", "#ddd6ce"),
    "block_info_text_color": ("*neutral_600", "#a89f95"),
    "block_shadow": ("none", "none"),
    "input_background_fill": ("#ffffff", "#131110"),
    "input_border_color": ("*neutral_300", "#454039"),
    "input_border_color_focus": ("*primary_500", "*primary_400"),
    "button_primary_background_fill": ("*primary_600", "*primary_600"),
    "button_primary_background_fill_hover": ("*primary_700", "*primary_500"),
    "button_primary_text_color": ("#ffffff", "#ffffff"),
    "button_secondary_background_fill": ("#ffffff", "#2a2623"),
    "button_secondary_background_fill_hover": ("*neutral_100", "#35302b"),
    "button_secondary_border_color": ("*neutral_300", "#454039"),
    "button_secondary_text_color": ("*neutral_800", "#ece7e1"),
    "link_text_color": ("*primary_700", "*primary_300"),
    "link_text_color_visited": ("*primary_700", "*primary_300"),
    "checkbox_background_color_selected": ("*primary_600", "*primary_500"),
    "checkbox_border_color_selected": ("*primary_600", "*primary_500"),
    "table_even_background_fill": ("#ffffff", "#1b1816"),
    "table_odd_background_fill": ("*neutral_50", "#201c1a"),
}
SHAPES = {
    "block_title_text_weight": "550",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_padding": "7px 10px",
    "button_border_width": "1px",
    "slider_color": "*primary_500",
}


def theme() -> gr.themes.Base:
    """The Gradio theme, light and dark."""
    base = gr.themes.Base(primary_hue=RUST, secondary_hue=RUST, neutral_hue=REGOLITH, font=SANS, font_mono=MONO, radius_size="sm", spacing_size="sm", text_size="md")
    light = {name: pair[0] for name, pair in COLOURS.items()}
    dark = {f"{name}_dark": pair[1] for name, pair in COLOURS.items()}
    return base.set(**light, **dark, **SHAPES)


def asset(name: str) -> str:
    """Text of a file in assets."""
    return (ASSETS / name).read_text(encoding="utf-8")


def script(name: str) -> str:
    """Text of one of the page's own scripts in assets/js."""
    return asset(f"js/{name}")


def stylesheet() -> str:
    """The page's own style sheet."""
    return asset("page.css")
