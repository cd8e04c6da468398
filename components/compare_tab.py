"""The Compare tab: generated beside reference, base beside tuned, maps, the evaluation, the way through the episodes."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from backend.errors import InputError
from backend.evaluation.results import evaluated_name, lost_by
from backend.reference.prompts import load_prompts
from backend.training.manager import FOREIGN
from components import compare_views as views
from components.attach import parse_choice, run_choices
from components.context import PageContext
from components.drawing import (
    RECORDED,
    check_count,
    check_drawable,
    check_evaluated,
    check_mixture,
    draw_pair,
    evaluate,
    offered_checkpoints,
    recorded_only,
    usually_evaluated,
)
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
        self.picked = gr.State("")  # the run that a person chose here; without one the tab follows what the page shows
        self.seen = gr.State(None)  # what is shown of the run, see `views.state_of`
        self.asked = gr.State("")  # what a person was told that an evaluation would replace
        with gr.Row(equal_height=False):
            self.run = gr.Dropdown(choices=run_choices(self.context), value=None, label="Run", elem_id="compare-run", scale=4, min_width=260, interactive=True)
            self.checkpoint = gr.Dropdown(choices=[], value=None, label="Checkpoint", elem_id="compare-checkpoint", scale=2, min_width=150, interactive=True)
            self.count = gr.Number(8, label="Images to draw", scale=1, min_width=110, elem_id="compare-count")
            self.judged = gr.Number(64, label="Images to evaluate", scale=1, min_width=130, elem_id="compare-judged")
        with gr.Row(elem_classes="control-row"):
            self.draw = gr.Button("Draw test prompts with both", elem_id="compare-draw", size="md")
            self.evaluate = gr.Button("Evaluate this checkpoint", elem_id="compare-evaluate", size="md")
        with gr.Row(visible=False, elem_classes="control-row") as self.confirm_row:
            self.replace = gr.Button("Replace the evaluation", elem_id="compare-replace", variant="stop", size="md")
            self.keep = gr.Button("Keep it", elem_id="compare-keep", size="md")
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
    def filled(self) -> list[Any]:
        """What pictures of a run fill, and the answer."""
        return [self.pairs, self.neighbours, self.which, self.slider, self.caption, self.evaluation, self.map, self.evolution, self.answer]

    @property
    def outputs(self) -> list[Any]:
        """What a chosen run fills."""
        return [self.seen, self.confirm_row, self.asked, self.checkpoint, self.judged, self.draw, self.evaluate, *self.filled]

    def _wire(self) -> None:
        shown = {"api_visibility": "private", "show_progress": "minimal", "show_progress_on": self.answer}
        self.run.input(self.choose, [self.run, self.method], [self.picked, *self.outputs], **shown)
        self.run.focus(lambda: gr.Dropdown(choices=run_choices(self.context)), None, self.run, queue=False, **PRIVATE)
        self.checkpoint.focus(self.refill, [self.run, self.checkpoint], self.checkpoint, queue=False, **PRIVATE)
        self.which.change(self.one_pair, [self.pairs, self.which], [self.slider, self.caption], trigger_mode="always_last", **PRIVATE)
        self.method.change(self.redraw, [self.pairs, self.method, self.run], [self.map, self.evolution], **PRIVATE)
        work = {"concurrency_limit": 1, "concurrency_id": "device", **shown}
        self.draw.click(self.draw_now, [self.run, self.checkpoint, self.count, self.method, self.visitor], self.filled, **work)
        inputs, results = [self.run, self.checkpoint, self.judged, self.method, self.visitor], [self.seen, self.confirm_row, self.asked, *self.filled]
        self.evaluate.click(self.evaluate_now, inputs, results, **work)
        self.replace.click(self.replace_now, [*inputs, self.asked], results, **work)
        self.keep.click(lambda: (gr.Row(visible=False), "", ""), None, [self.confirm_row, self.asked, self.answer], **PRIVATE)

    def opened_by(self, tab: gr.Tab) -> None:
        """Whenever the tab is opened: follow the run that is being watched, and show again what has changed."""
        entered = tab.select(self.enter, [self.view, self.run, self.picked], self.run, queue=False, **PRIVATE)
        entered.then(
            self.look_again, [self.run, self.method, self.checkpoint, self.pairs, self.seen], self.outputs,
            api_visibility="private", show_progress="minimal", show_progress_on=self.answer,
        )  # fmt: skip

    def enter(self, view: dict[str, Any], chosen: str | None, picked: str = "") -> Any:
        """On opening the tab: the run that a person chose here, else the one that is being watched."""
        choices = run_choices(self.context)
        watched = f"{view['source']}/{view['run']}" if view and view.get("run") else None
        offered = [value for _, value in choices]
        return gr.Dropdown(choices=choices, value=next((run for run in (picked, watched, chosen) if run in offered), None))

    def choose(self, choice: str | None, method: str) -> tuple[Any, ...]:
        """A person chose the run: it stays chosen, whatever the page shows."""
        return choice or "", *self.show(choice, method)

    def refill(self, choice: str | None, checkpoint: str | None) -> Any:
        """The checkpoints that there are now."""
        try:
            source, run_id = parse_choice(choice)
            found, value = offered_checkpoints(self.context.run(run_id, source), checkpoint)
        except InputError:
            return gr.skip()
        return gr.Dropdown(choices=found, value=value)

    def look_again(self, choice: str | None, method: str, checkpoint: str | None, pairs: views.Pairs | None, seen: dict[str, Any] | None) -> tuple[Any, ...]:
        """What has changed since it was shown: all of another run; of the same one new samples, an evaluation or other checkpoints. Pairs that were drawn here stay."""
        try:
            source, run_id = parse_choice(choice)
            state = views.state_of(self.context.run(run_id, source))
        except InputError:
            return self.show(choice, method)
        if not seen or state["run"] != seen["run"]:
            return self.show(choice, method)
        if state == seen:
            return tuple(gr.skip() for _ in self.outputs)
        drawn = pairs if pairs is not None and pairs.drawn else None
        fresh = self.show(choice, method, drawn) if state["pictures"] != seen["pictures"] else (gr.skip(),) * len(self.outputs)
        kept = {self.seen: state, self.checkpoint: self.refill(choice, checkpoint), self.judged: gr.skip()} | ({self.answer: gr.skip()} if drawn else {})
        return tuple(kept.get(place, new) for place, new in zip(self.outputs, fresh, strict=True))

    def _reference(self, run: Any) -> tuple[np.ndarray, list[str], str]:
        from backend.reference.dataset import load_reference

        found = load_reference(run.config.reference)
        return found.images, found.captions, found.label

    def show(self, choice: str | None, method: str, drawn: views.Pairs | None = None) -> tuple[Any, ...]:
        """Everything about one run that needs no drawing; with pairs that were drawn before in the place of recorded ones."""
        closed = gr.Row(visible=False), ""
        try:
            source, run_id = parse_choice(choice)
            run = self.context.run(run_id, source)
            state, pairs, images = views.state_of(run), drawn or views.recorded_pairs(run), usually_evaluated(run, self.context)
        except InputError as error:
            buttons = gr.Button(interactive=False), gr.Button(interactive=False)
            return None, *closed, gr.Dropdown(choices=[], value=None), gr.skip(), *buttons, *self._nothing(str(error))
        found, value = offered_checkpoints(run, None)
        recorded = recorded_only(source, run)
        buttons = gr.Button(interactive=not recorded), gr.Button(interactive=source == "runs")  # a recorded run keeps its evaluation
        filled = self._fill(run, pairs, method, note(RECORDED) if recorded else "")
        return state, *closed, gr.Dropdown(choices=found, value=value), images, *buttons, *filled

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
        try:
            files = write_pngs([pairs.base[i], pairs.tuned[i]], ["base", "tuned"], SHOWN_SIDE)
        except InputError as error:
            return None, note(str(error), "bad")
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
            check_drawable(source, run)
            known = load_prompts(run.config.test_prompts)
            prompts = [known[i % len(known)] for i in range(count)]
            seeds = [10_000 + i for i in range(count)]
            base, tuned, name = draw_pair(self.context, run, checkpoint, prompts, seeds)
        except InputError as error:
            return *(gr.skip() for _ in self.filled[1:]), note(str(error), "bad")
        pairs = views.Pairs(base, tuned, prompts, seeds, "base model", name, about=f"{count} test prompts drawn now", drawn=True)
        return self._fill(run, pairs, method, note(f"{count} test prompts drawn with base and {name}.", "good"))

    def evaluate_now(self, choice: str | None, checkpoint: str | None, count: float, method: str, visitor: Any = None, request: gr.Request | None = None) -> tuple[Any, ...]:
        """Judge the checkpoint against the base on test prompts, and show the result; the run's folder keeps it. Asks first where a better evaluation would be lost."""
        return self.replace_now(choice, checkpoint, count, method, visitor, "", request)

    def replace_now(
        self, choice: str | None, checkpoint: str | None, count: float, method: str, visitor: Any = None, asked: str = "", request: gr.Request | None = None
    ) -> tuple[Any, ...]:
        """`evaluate_now` where a person has read what is lost (`asked`) and wants it all the same."""
        kept = tuple(gr.skip() for _ in self.filled[1:])
        try:
            source, run_id = parse_choice(choice)
            if source == "demo":
                raise InputError("a recorded run keeps the evaluation it came with: evaluate one of your own")
            run, count = self.context.run(run_id, source), check_evaluated(count, self.context)
            if not self.context.manager.may_steer(run_id, owner_of(visitor, request)):  # it replaces the evaluation that the run has
                raise InputError(FOREIGN)
            lost = lost_by(run, evaluated_name(run, checkpoint), count)
            if lost and lost != asked:
                return gr.skip(), gr.Row(visible=True), lost, *kept, note(lost, "warn")
            evaluate(self.context, run, checkpoint, count)
        except InputError as error:
            return gr.skip(), gr.Row(visible=False), "", *kept, note(str(error), "bad")
        filled = self._fill(run, views.recorded_pairs(run), method, note("Evaluated.", "good"))
        return views.state_of(run), gr.Row(visible=False), "", *filled
