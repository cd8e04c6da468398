"""The Compare tab: generated beside reference, base beside tuned, maps, the evaluation, the way through the episodes."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from backend.errors import InputError
from backend.reference.prompts import load_prompts
from backend.training.manager import FOREIGN
from components import compare_views as views
from components.attach import parse_choice, run_choices
from components.context import PageContext
from components.drawing import check_count, check_mixture, checkpoint_choices, draw_pair, evaluate
from components.live_chart import figure
from components.login import owner_of
from components.markup import note, text
from components.pictures import write_pngs

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
SHOWN_SIDE = 384
PAIRS_SECONDS = 900  # drawn pairs are kept so long after their page was closed; 64 of 512 pixels are a hundred megabytes


class CompareTab:
    """Widgets and events of the tab."""

    def __init__(self, context: PageContext, view: gr.State, visitor: gr.BrowserState) -> None:
        self.context, self.view, self.visitor = context, view, visitor

    def build(self) -> None:
        """Lay out and wire the tab."""
        with gr.Row(equal_height=False):
            self.run = gr.Dropdown(choices=run_choices(self.context), value=None, label="Run", elem_id="compare-run", scale=4, min_width=260, interactive=True)
            self.checkpoint = gr.Dropdown(choices=[], value=None, label="Checkpoint", elem_id="compare-checkpoint", scale=2, min_width=150, interactive=True)
            self.count = gr.Number(8, label="Images", scale=1, min_width=80)
        with gr.Row(elem_classes="control-row"):
            self.draw = gr.Button("Draw test prompts with both", elem_id="compare-draw", size="md")
            self.evaluate = gr.Button("Evaluate this checkpoint", elem_id="compare-evaluate", size="md")
        self.answer = gr.HTML(elem_id="compare-answer", elem_classes="plain-html")
        self.pairs = gr.State(None, time_to_live=PAIRS_SECONDS)
        self.neighbours = gr.HTML(elem_id="compare-neighbours", elem_classes="plain-html")
        gr.HTML('<h2 class="section-title">Base against tuned <small>same prompt, same seed; drag the line</small></h2>', elem_classes="plain-html")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                self.slider = gr.ImageSlider(label="base | tuned", format="png", interactive=False, max_height=400, elem_id="compare-slider", buttons=["fullscreen"])
            with gr.Column(scale=3, min_width=280):
                self.which = gr.Slider(1, 2, 1, step=1, label="Pair", elem_id="compare-pair")
                self.caption = gr.HTML(elem_id="compare-caption", elem_classes="plain-html")
        self.evaluation = gr.HTML(elem_id="compare-evaluation", elem_classes="plain-html")
        with gr.Row(equal_height=False):
            self.method = gr.Radio(
                choices=[("PCA", "pca"), ("t-SNE", "tsne")], value="pca", label="Feature map: base, tuned and reference; hover shows the picture", elem_id="compare-method"
            )
        self.map = figure(pictures=True, elem_id="compare-map")
        gr.HTML('<h2 class="section-title">Through the episodes <small>the same prompts and seeds, darker is later; projected like the map</small></h2>', elem_classes="plain-html")
        self.evolution = figure(elem_id="compare-evolution")
        self._wire()

    @property
    def outputs(self) -> list[Any]:
        """What a chosen run fills."""
        return [self.checkpoint, self.pairs, self.neighbours, self.which, self.slider, self.caption, self.evaluation, self.map, self.evolution, self.answer]

    def _wire(self) -> None:
        self.run.change(self.show, [self.run, self.method], self.outputs, **{**PRIVATE, "show_progress": "minimal", "show_progress_on": self.answer})
        self.run.focus(lambda: gr.Dropdown(choices=run_choices(self.context)), None, self.run, queue=False, **PRIVATE)
        self.which.change(self.one_pair, [self.pairs, self.which], [self.slider, self.caption], trigger_mode="always_last", **PRIVATE)
        self.method.change(self.redraw, [self.pairs, self.method, self.run], [self.map, self.evolution], **PRIVATE)
        work = {"concurrency_limit": 1, "concurrency_id": "device", "api_visibility": "private", "show_progress": "minimal", "show_progress_on": self.answer}
        inputs = [self.run, self.checkpoint, self.count, self.method, self.visitor]
        self.draw.click(self.draw_now, inputs, self.outputs[1:], **work)
        self.evaluate.click(self.evaluate_now, inputs, self.outputs[1:], **work)

    def enter(self, view: dict[str, Any], chosen: str | None) -> Any:
        """On opening the tab: the run that is being watched, unless one is chosen already."""
        choices = run_choices(self.context)
        value = chosen or (f"{view['source']}/{view['run']}" if view and view.get("run") else None)
        return gr.Dropdown(choices=choices, value=value if value in [c[1] for c in choices] else None)

    def _reference(self, run: Any) -> tuple[np.ndarray, list[str], str]:
        from backend.reference.dataset import load_reference

        found = load_reference(run.config.reference)
        return found.images, found.captions, found.label

    def show(self, choice: str | None, method: str) -> tuple[Any, ...]:
        """Everything about one run that needs no drawing."""
        try:
            source, run_id = parse_choice(choice)
            run = self.context.run(run_id, source)
            pairs = views.recorded_pairs(run)
        except InputError as error:
            return gr.Dropdown(choices=[], value=None), *self._nothing(str(error))
        found = checkpoint_choices(run)
        checkpoints = gr.Dropdown(choices=found, value=found[0][1] if found else None)
        return checkpoints, *self._fill(run, pairs, method, "")

    def _nothing(self, reason: str) -> tuple[Any, ...]:
        return None, views.nothing(reason), gr.Slider(maximum=2, value=1), None, "", "", None, None, ""

    def _fill(self, run: Any, pairs: views.Pairs | None, method: str, answer: str) -> tuple[Any, ...]:
        try:
            views.check_pairs(pairs)
            images, captions, label = self._reference(run)
        except InputError as error:
            return self._nothing(str(error))
        slider, caption = self.one_pair(pairs, 1)
        return (
            pairs,
            views.neighbours(pairs, images, captions, label),
            gr.Slider(maximum=max(2, len(pairs.tuned)), value=1),
            slider,
            caption,
            views.evaluation_table(run),
            views.map_figure(run, pairs, images, captions, method),
            views.evolution_figure(run, method),
            answer,
        )

    def one_pair(self, pairs: views.Pairs | None, number: float) -> tuple[Any, str]:
        """One pair as PNG files for the slider, and what it shows."""
        if pairs is None:
            return gr.skip(), ""
        i = min(max(int(number or 1), 1), len(pairs.tuned)) - 1
        files = write_pngs([pairs.base[i], pairs.tuned[i]], ["base", "tuned"], SHOWN_SIDE)
        return tuple(
            files
        ), f'<div class="caption"><b>{text(pairs.prompts[i])}</b><br>seed {pairs.seeds[i]} · left: {text(pairs.base_title)} · right: {text(pairs.tuned_title)}</div>'

    def redraw(self, pairs: views.Pairs | None, method: str, choice: str | None) -> tuple[Any, Any]:
        """The feature map and the way through the episodes in the other projection."""
        try:
            source, run_id = parse_choice(choice)
            run = self.context.run(run_id, source)
            images, captions, _ = self._reference(run)
            return views.map_figure(run, views.check_pairs(pairs), images, captions, method), views.evolution_figure(run, method)
        except InputError:
            return None, None

    def draw_now(self, choice: str | None, checkpoint: str | None, count: float, method: str, visitor: Any = None, request: gr.Request | None = None) -> tuple[Any, ...]:
        """Draw test prompts with the base and the checkpoint, same seeds, and compare those."""
        try:
            source, run_id = parse_choice(choice)
            run, count = self.context.run(run_id, source), check_count(count, self.context)
            check_mixture(self.context, choice, checkpoint, owner_of(visitor, request))
            known = load_prompts(run.config.test_prompts)
            prompts = [known[i % len(known)] for i in range(count)]
            seeds = [10_000 + i for i in range(count)]
            base, tuned = draw_pair(self.context, run, checkpoint, prompts, seeds)
        except InputError as error:
            return *(gr.skip() for _ in self.outputs[2:]), note(str(error), "bad")
        pairs = views.Pairs(base, tuned, prompts, seeds, "base model", checkpoint or "newest checkpoint")
        return self._fill(run, pairs, method, note(f"{count} test prompts drawn with base and checkpoint.", "good"))

    def evaluate_now(self, choice: str | None, checkpoint: str | None, count: float, method: str, visitor: Any = None, request: gr.Request | None = None) -> tuple[Any, ...]:
        """Judge the checkpoint against the base on test prompts, and show the result; the run's folder keeps it."""
        try:
            source, run_id = parse_choice(choice)
            if source == "demo":
                raise InputError("a recorded run keeps the evaluation it came with: evaluate one of your own")
            run, count = self.context.run(run_id, source), check_count(count, self.context)
            if not self.context.manager.may_steer(run_id, owner_of(visitor, request)):  # it replaces the evaluation that the run has
                raise InputError(FOREIGN)
            evaluate(self.context, run, checkpoint, max(count, 4))
        except InputError as error:
            return *(gr.skip() for _ in self.outputs[2:]), note(str(error), "bad")
        return self._fill(run, views.recorded_pairs(run), method, note("Evaluated.", "good"))
