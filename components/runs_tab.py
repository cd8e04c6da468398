"""The Runs tab: all runs of the folder, up to six beside each other, and what can be done with one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from backend.errors import InputError
from components import form, runs_views
from components.attach import greet, parse_choice, run_choices, view_of
from components.context import PageContext
from components.live_chart import figure
from components.login import owner_of
from components.markup import note
from components.scratch import scratch_folder
from components.train_tab import TrainTab

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
CURVES = {
    "Group score": ("batch_score", False),
    "Group score over the base": ("batch_score", True),
    "Sample diversity": ("sample_diversity", False),
    "KL to base": ("kl_base", False),
    "Policy loss": ("actor_loss", False),
    "Gradient norm": ("grad_norm_actor", False),
    "Time per episode": ("time_per_episode", False),
}
MOST = 6


class RunsTab:
    """Widgets and events of the tab."""

    def __init__(self, context: PageContext, train: TrainTab) -> None:
        self.context, self.train = context, train

    def build(self) -> None:
        """Lay out and wire the tab."""
        self.table = gr.HTML(elem_id="runs-table", elem_classes="plain-html")
        gr.HTML('<h2 class="section-title">Side by side <small>choose two to six runs</small></h2>', elem_classes="plain-html")
        with gr.Row(equal_height=False):
            self.chosen = gr.Dropdown(choices=run_choices(self.context), value=[], multiselect=True, max_choices=MOST, label="Runs", elem_id="runs-chosen", scale=4, min_width=260)
            self.curve = gr.Dropdown(choices=list(CURVES), value="Group score", label="Curve", scale=1, min_width=180)
        self.overlay = figure(elem_id="runs-overlay")
        self.analysis = gr.HTML(elem_id="runs-analysis", elem_classes="plain-html")
        self.bars = figure(elem_id="runs-bars")
        gr.HTML('<h2 class="section-title">One run</h2>', elem_classes="plain-html")
        with gr.Row(elem_classes="control-row", equal_height=False):
            self.one = gr.Dropdown(choices=run_choices(self.context), value=None, label="Run", elem_id="runs-one", scale=3, min_width=260)
        with gr.Row(elem_classes="control-row"):
            self.buttons = {
                name: gr.Button(label, elem_id=f"runs-{name}", size="md", variant=variant)
                for name, label, variant in (("open", "Watch", "secondary"), ("resume", "Resume", "secondary"), ("clone", "Copy settings", "secondary"))
            }
            self.report_button = gr.Button("Report", elem_id="runs-report", size="md")
            self.download = gr.Button("Prepare .zip", elem_id="runs-download", size="md")
            self.ask = gr.Button("Delete", elem_id="runs-delete", size="md", variant="stop")
        with gr.Row(visible=False, elem_classes="control-row") as self.confirm_row:
            self.confirm = gr.Button("Delete this run for ever", elem_id="runs-confirm", variant="stop", size="md")
            self.cancel = gr.Button("Keep it", elem_id="runs-keep", size="md")
        self.file = gr.File(file_count="multiple", label="To take along", visible=False, elem_id="runs-zip")
        self.answer = gr.HTML("", elem_id="runs-answer", elem_classes="plain-html")
        self.details = gr.HTML("", elem_id="runs-details", elem_classes="plain-html")
        self.decomposition = figure(elem_id="runs-decomposition")
        self._wire()

    def _wire(self) -> None:
        gr.on([self.chosen.change, self.curve.input], self.compare, [self.chosen, self.curve], [self.overlay, self.analysis, self.bars], **PRIVATE)
        self.one.change(self.detail, self.one, [self.details, self.decomposition, self.file, self.confirm_row], **PRIVATE)
        monitor, visitor = self.train.monitor, self.train.monitor.visitor
        tabs = self.tabs
        self.buttons["open"].click(self.open_run, [self.one, visitor], [monitor.view, visitor, self.answer, tabs], **PRIVATE)
        monitor.then_train(self.buttons["resume"].click(self.resume, [self.one, visitor], [monitor.view, visitor, self.answer, tabs], **PRIVATE))
        form_outputs = [*self.train.fields.values(), self.train.extra["command"], self.train.extra["estimate"]]
        self.buttons["clone"].click(self.clone, self.one, [self.answer, tabs, *form_outputs], **PRIVATE)
        self.download.click(self.zip, self.one, [self.file, self.answer], **PRIVATE)
        self.report_button.click(self.report, self.one, [self.file, self.answer], **PRIVATE)
        self.ask.click(self.ask_delete, self.one, [self.confirm_row, self.answer], **PRIVATE)
        self.cancel.click(lambda: (gr.Row(visible=False), ""), None, [self.confirm_row, self.answer], **PRIVATE)
        self.confirm.click(self.delete, [self.one, visitor], [self.answer, self.confirm_row, *self.lists], **PRIVATE)

    tabs: gr.Tabs

    @property
    def lists(self) -> list[Any]:
        """What `refresh` fills."""
        return [self.table, self.chosen, self.one]

    def refresh(self) -> tuple[Any, ...]:
        """Table and choices as they are on disk now; what is chosen stays chosen."""
        choices = run_choices(self.context)
        return runs_views.runs_table(self.context), gr.Dropdown(choices=choices), gr.Dropdown(choices=choices)

    def _run(self, choice: Any) -> Any:
        source, run_id = parse_choice(choice)
        return self.context.run(run_id, source)

    def compare(self, chosen: list[str], curve: str) -> tuple[Any, ...]:
        """Overlay, differing settings, convergence and policy comparison of the chosen runs."""
        if not chosen:
            return None, "", None
        from backend.analysis import comparison

        try:
            runs = [self._run(choice) for choice in chosen[:MOST]]
            column, relative = CURVES.get(curve, CURVES["Group score"])
            overlay = comparison.overlay(runs, column, relative)
            overlay["layout"].pop("title", None)
            bars = comparison.policy_comparison(runs) if len(runs) > 1 else None
            return {"key": "|".join([curve, *(r.id for r in runs)]), **overlay}, runs_views.side_by_side(runs), bars and {"key": "bars", **bars}
        except InputError as error:
            return None, note(str(error), "warn"), None

    def detail(self, choice: str | None) -> tuple[Any, ...]:
        """Convergence, stability, settings and record of one run, and its reward decomposition."""
        hidden = gr.File(value=None, visible=False), gr.Row(visible=False)
        if not choice:
            return "", None, *hidden
        try:
            run = self._run(choice)
            return runs_views.details(run), runs_views.decomposition_figure(run), *hidden
        except InputError as error:
            return note(str(error), "warn"), None, *hidden

    def open_run(self, choice: Any, visitor: Any) -> tuple[Any, ...]:
        """Show the run in the Train tab."""
        try:
            source, run_id = parse_choice(choice)
            self.context.run(run_id, source)
        except InputError as error:
            return gr.skip(), gr.skip(), note(str(error), "warn"), gr.skip()
        return view_of(run_id, source), {**greet(visitor), "last_run": run_id}, "", gr.Tabs(selected="train")

    def resume(self, choice: Any, visitor: Any, request: gr.Request | None = None) -> tuple[Any, ...]:
        """Continue the run from its newest sound checkpoint and show it."""
        try:
            source, run_id = parse_choice(choice)
            if source == "demo":
                raise InputError("a recorded run cannot be resumed: copy its settings and start your own")
            self.context.manager.resume(run_id, owner_of(visitor, request))
        except InputError as error:
            return gr.skip(), gr.skip(), note(str(error), "warn"), gr.skip()
        return view_of(run_id, source), {**greet(visitor), "last_run": run_id}, note("Resume requested.", "good"), gr.Tabs(selected="train")

    def clone(self, choice: Any) -> list[Any]:
        """The run's settings in the form, to be edited and started as a new run."""
        keep = [gr.skip()] * (len(self.train.fields) + 2)
        try:
            run = self._run(choice)
            values = {name: getattr(run.config, name) for name in self.train.fields}
            self.context.check_trusted(values)
        except InputError as error:
            return [note(str(error), "warn"), gr.skip(), *keep]
        return [note("The form now holds this run's settings."), gr.Tabs(selected="train"), *values.values(), *form.preview(values, self.context)]

    def zip(self, choice: Any) -> tuple[Any, str]:
        """Pack the run for download."""
        try:
            source, run_id = parse_choice(choice)
            store = self.context.demo if source == "demo" else self.context.store
            path = store.zip(run_id, folder=scratch_folder())
        except (InputError, OSError) as error:  # the latter of the temporary folder itself
            return gr.skip(), note(str(error), "warn")
        return gr.File(value=[str(path)], visible=True), ""

    def report(self, choice: Any) -> tuple[Any, str]:
        """The run as one HTML page with all figures, and as Markdown."""
        from backend.analysis.report import write_report

        try:
            paths = write_report(self._run(choice), scratch_folder())
        except (InputError, OSError) as error:
            return gr.skip(), note(str(error), "warn")
        return gr.File(value=[str(p) for p in paths], visible=True), ""

    def ask_delete(self, choice: Any) -> tuple[Any, str]:
        """Ask before anything is deleted."""
        try:
            source, run_id = parse_choice(choice)
            if source == "demo":
                raise InputError("a recorded run belongs to the installation and stays")
        except InputError as error:
            return gr.Row(visible=False), note(str(error), "warn")
        return gr.Row(visible=True), note(f"Delete {run_id} with its checkpoints and images?", "warn")

    def delete(self, choice: Any, visitor: Any, request: gr.Request | None = None) -> tuple[Any, ...]:
        """Delete the run; a live one is refused."""
        try:
            source, run_id = parse_choice(choice)
            if source == "demo":
                raise InputError("a recorded run belongs to the installation and stays")
            self.context.manager.delete(run_id, owner_of(visitor, request))
            self.context.forget(run_id)
        except InputError as error:
            return note(str(error), "warn"), gr.Row(visible=False), *(gr.skip() for _ in self.lists)
        table, chosen, _ = self.refresh()
        return note(f"{run_id} is deleted.", "good"), gr.Row(visible=False), table, chosen, gr.Dropdown(choices=run_choices(self.context), value=None)
