"""The Generate tab: one prompt, base and tuned side by side, PNGs to take along."""

from __future__ import annotations

from typing import Any

import gradio as gr

from backend.errors import InputError
from components.attach import parse_choice, run_choices
from components.context import PageContext
from components.drawing import BASE, MAX_PROMPT, check_count, check_drawable, check_mixture, check_prompt, draw_pair, guidance_at, offered_checkpoints, unknown_words
from components.login import user_of
from components.markup import note, text
from components.pictures import write_pngs

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
EXAMPLE = "aerial view of fresh mars craters on smooth plains with sharp rims"
SHOWN_SIDE = 256


class GenerateTab:
    """Widgets and events of the tab, and the endpoint `/generate`."""

    def __init__(self, context: PageContext) -> None:
        self.context = context

    def build(self) -> None:
        """Lay out and wire the tab."""
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.run = gr.Dropdown(choices=self.choices(), value="", label="Model", elem_id="generate-run", interactive=True, allow_custom_value=True)
                self.checkpoint = gr.Dropdown(choices=[], value=None, label="Checkpoint", elem_id="generate-checkpoint", interactive=True, allow_custom_value=True, visible=False)
                self.prompt = gr.Textbox(EXAMPLE, label="Prompt", lines=3, max_length=MAX_PROMPT, elem_id="generate-prompt")
                self.words = gr.HTML(known(EXAMPLE), elem_id="generate-words", elem_classes="plain-html")
                with gr.Row():
                    self.seed = gr.Number(0, label="First seed", precision=0, min_width=110)
                    self.count = gr.Number(4, label="Images", min_width=90, elem_id="generate-count")
                    self.guidance = gr.Number(7.5, label="Guidance", min_width=90)
                self.button = gr.Button("Draw", variant="primary", elem_id="generate-start")
                self.answer = gr.HTML(elem_id="generate-answer", elem_classes="plain-html")
            with gr.Column(scale=5, min_width=320):
                self.tuned = gr.Gallery(
                    label="Drawn",
                    columns=4,
                    height="auto",
                    object_fit="contain",
                    format="png",
                    interactive=False,
                    elem_id="generate-tuned",
                    buttons=["download", "download_all", "fullscreen"],
                )
                self.base = gr.Gallery(
                    label="Base model, same seeds", columns=4, height="auto", object_fit="contain", format="png", interactive=False, elem_id="generate-base", visible=False
                )
        self.filled = gr.State(None)  # the guidance that was filled in, to tell it from one that a person typed
        self.run.focus(lambda: gr.Dropdown(choices=self.choices()), None, self.run, queue=False, **PRIVATE)
        self.run.change(self.pick, self.run, [self.checkpoint, self.guidance, self.filled], queue=False, **PRIVATE)
        self.checkpoint.focus(self.refill, [self.run, self.checkpoint], self.checkpoint, queue=False, **PRIVATE)
        self.checkpoint.change(self.guidance_now, [self.run, self.checkpoint], [self.guidance, self.filled], queue=False, **PRIVATE)
        self.prompt.change(known, self.prompt, self.words, queue=False, trigger_mode="always_last", **PRIVATE)
        self.button.click(
            self.generate,
            [self.prompt, self.run, self.checkpoint, self.seed, self.count, self.guidance],
            [self.tuned, self.base, self.answer],
            concurrency_limit=1,
            concurrency_id="device",
            api_name="generate",
            api_description="Draw images. Arguments: prompt; model ('' for the base model, else 'runs/<run id>'); "
            "checkpoint ('' for the newest, 'best', or a name); first seed; number of images; guidance. "
            "Returns the images (PNG files), the base model's images of the same seeds, and a sentence.",
            show_progress="minimal",
        )

    def choices(self) -> list[tuple[str, str]]:
        """The base model and every run."""
        return [(BASE.capitalize(), ""), *run_choices(self.context)]

    def opened_by(self, tab: gr.Tab) -> None:
        """Look again whenever the tab is opened: runs go on and prune their checkpoints."""
        seen = [self.run, self.checkpoint, self.guidance, self.filled]
        tab.select(self.enter, seen, seen, queue=False, **PRIVATE)

    def _run(self, choice: str | None) -> Any:
        """The chosen run; None for the base model, one that is gone, or one trained with a plug-in that is not here."""
        try:
            source, run_id = parse_choice(choice)
            run = self.context.run(run_id, source)
            return run if run.readable else None
        except InputError:
            return None

    def pick(self, choice: str) -> tuple[Any, Any, Any]:
        """Checkpoints of the chosen run, and the guidance in force at the newest."""
        run = self._run(choice)
        if run is None:
            return gr.Dropdown(choices=[], value=None, visible=False), gr.skip(), gr.skip()
        found, value = offered_checkpoints(run, None)
        guidance = guidance_at(run, value)
        return gr.Dropdown(choices=found, value=value, visible=True), guidance, guidance

    def refill(self, choice: str, checkpoint: str | None) -> Any:
        """The checkpoints that there are now."""
        run = self._run(choice)
        if run is None:
            return gr.skip()
        found, value = offered_checkpoints(run, checkpoint)
        return gr.Dropdown(choices=found, value=value)

    def guidance_now(self, choice: str, checkpoint: str | None) -> tuple[Any, Any]:
        """The guidance in force at the chosen checkpoint."""
        run = self._run(choice)
        return (gr.skip(), gr.skip()) if run is None else (guidance_at(run, checkpoint),) * 2

    def enter(self, choice: str, checkpoint: str | None, guidance: float | None, filled: float | None) -> tuple[Any, ...]:
        """On opening the tab: runs and checkpoints as they are now, and the guidance unless a person typed one."""
        runs, run = gr.Dropdown(choices=self.choices()), self._run(choice)
        if run is None:
            return runs, gr.skip(), gr.skip(), gr.skip()
        found, value = offered_checkpoints(run, checkpoint)
        latest = guidance_at(run, value) if guidance == filled else gr.skip()
        return runs, gr.Dropdown(choices=found, value=value), latest, latest

    def generate(
        self, prompt: str, model: str = "", checkpoint: str | None = None, seed: float = 0, count: float = 4, guidance: float | None = None, request: gr.Request | None = None
    ) -> tuple[Any, Any, str]:
        """Base and tuned images of one prompt; the seeds are consecutive."""
        try:
            prompt, count = check_prompt(prompt), check_count(count, self.context)
            if guidance is not None and not 1 <= guidance <= 20:
                raise InputError(f"guidance {guidance}: give a value from 1 to 20")
            run = None
            if model:
                source, run_id = parse_choice(model)
                run = self.context.run(run_id, source)
                check_mixture(self.context, model, checkpoint, user_of(request))  # a browser's token is no argument of this endpoint
                check_drawable(source, run)
            seeds = [(int(seed or 0) + i) % 2**31 for i in range(count)]
            base, tuned, _ = draw_pair(self.context, run, checkpoint or None, [prompt] * count, seeds, guidance)
            shown = tuned if tuned is not None else base
            labels = [(path, f"seed {s}") for path, s in zip(write_pngs(shown, [f"crater_seed_{s}" for s in seeds], SHOWN_SIDE), seeds, strict=True)]
            beside = gr.Gallery(value=None, visible=False)
            if tuned is not None:
                files = write_pngs(base, [f"base_seed_{s}" for s in seeds], SHOWN_SIDE)
                beside = gr.Gallery(value=[(path, f"seed {s}") for path, s in zip(files, seeds, strict=True)], visible=True)
        except InputError as error:
            return gr.skip(), gr.skip(), note(str(error), "bad")
        return labels, beside, note(f"{count} images, seeds {seeds[0]} to {seeds[-1]}.", "good")


def known(prompt: str) -> str:
    """Which words of the prompt the embedded model does not know."""
    words = unknown_words(prompt or "")
    if not words:
        return '<div class="caption">The embedded model knows all these words.</div>' if (prompt or "").strip() else ""
    return f'<div class="caption">Not in the embedded model\'s captions, so without effect there: <b>{text(", ".join(words[:20]))}</b></div>'
