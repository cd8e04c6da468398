"""The whole page: masthead, six tabs, one timer, the endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from components import files, help_tab
from components.attach import attach, greet, run_choices, view_of, visitor_state
from components.compare_tab import CompareTab
from components.context import PageContext
from components.endpoints import Endpoints
from components.generate_tab import GenerateTab
from components.live_chart import plotly_file
from components.login import read_accounts
from components.markup import note
from components.reference_tab import ReferenceTab, draw
from components.runs_tab import RunsTab
from components.theme import ASSETS, asset, script, stylesheet, theme
from components.train_tab import TrainTab

SESSIONS = 300  # page loads that are remembered: Gradio keeps some 0.6 MiB for each, and by default ten thousand of them
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


def build(context: PageContext) -> gr.Blocks:
    """The page around one context.

    Args:
        context: folder of runs, manager and limits that all viewers share.
    """
    library = context.references
    with gr.Blocks(title="CraterLab", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as page:
        view, visitor = gr.State(view_of("", "runs")), visitor_state()
        gr.HTML(html_template=asset("html/masthead.html"), js_on_load=script("theme_toggle.js"), elem_id="masthead", elem_classes="plain-html")
        if context.settings.public_demo:
            gr.HTML(note(context.settings.sentence(), "warn"), elem_id="demo-note", elem_classes="plain-html")
        if context.settings.space_login:
            gr.LoginButton(size="sm", elem_id="login")
        train, compare, generate, reference = TrainTab(context, view, visitor), CompareTab(context, view, visitor), GenerateTab(context), ReferenceTab(context, library)
        runs = RunsTab(context, train)
        with gr.Tabs(selected="train", elem_id="tabs") as runs.tabs:
            with gr.Tab("Train", id="train"):
                train.build(library.strip())
            with gr.Tab("Compare", id="compare") as compare_page:
                compare.build()
            with gr.Tab("Generate", id="generate") as generate_page:
                generate.build()
            with gr.Tab("Runs", id="runs") as runs_page:
                runs.build()
            with gr.Tab("Reference", id="reference") as reference_page:
                reference.build(train.fields["reference"])
            with gr.Tab("Help", id="help"):
                help_tab.build()
        runs_page.select(runs.refresh, None, runs.lists, queue=False, **PRIVATE)
        compare.opened_by(compare_page)
        generate.opened_by(generate_page)
        reference.opened_by(reference_page)
        reference_page.select(draw, None, reference.render_outputs, inputs_kwargs=reference.render_inputs, **PRIVATE)
        page.load(_arrive(context), visitor, [view, visitor, train.monitor.parts["choice"]], queue=False, **PRIVATE)
        page.load(reference.offer, None, reference.lists, queue=False, **PRIVATE)
        Endpoints(context).register()
    return page


def _arrive(context: PageContext) -> Any:
    def arrive(visitor: Any, request: gr.Request) -> tuple[Any, ...]:
        """Greet a browser and attach it to a run."""
        context.warm_up()
        visitor = greet(visitor)
        asked = str(request.query_params.get("run", ""))[:80]
        view = attach(context, visitor, asked)
        if view["source"] == "runs" and view["run"]:
            visitor = {**visitor, "last_run": view["run"]}
        choice = f"{view['source']}/{view['run']}" if view["run"] else None
        return view, visitor, gr.Dropdown(choices=run_choices(context), value=choice)

    return arrive


def launch_settings(context: PageContext) -> dict[str, Any]:
    """Everything that `launch()` needs besides address and port: look, routes, limits, nothing from a network."""
    gr.set_static_paths([plotly_file()])
    return {
        "theme": theme(),
        "css": stylesheet(),
        "head": f"<script>{script('head.js')}</script>",
        "app_kwargs": {"routes": files.routes(context)},
        "auth": read_accounts(context.settings.auth) if context.settings.auth else None,
        "blocked_paths": [str(Path(p).resolve()) for p in (context.store.root, context.settings.auth) if p],
        "favicon_path": str(ASSETS / "favicon.svg"),
        "ssr_mode": False,
        "state_session_capacity": SESSIONS,
        "run_history": False,
        "enable_monitoring": False,
        "max_file_size": "512mb",
        "footer_links": ["api"],
        "show_error": True,
        "quiet": False,
        "_frontend": False,  # else a busy machine that answers its first request after three seconds refuses to serve at all
    }
