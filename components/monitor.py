"""The live half of the Train tab: banner, controls, charts, samples, knobs, alerts and log, all fed by one tick."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from backend.config import field_meta
from backend.errors import InputError
from backend.training.live import validate_change
from components import banner
from components.attach import parse_choice, run_choices, view_of
from components.context import PageContext
from components.live_chart import filmstrip, live_charts
from components.login import owner_of
from components.markup import note

RESUMABLE = {"stopped", "interrupted", "failed"}
SAMPLES_CAPTION = "same prompts and seeds each time, not trained on; under each image its reward, in standard deviations of what images of recent training groups get"
SHOWN = ("banner", "charts", "film", "alerts", "log")  # parts of a feed that have a place of their own


@dataclass
class Monitor:
    """Widgets of the live view.

    The timer asks for one value, whether there is news (`ask`); only then what is shown is fetched (`refresh`, which fills
    `outputs`), and only where state or settings changed the buttons and knobs (`controls`). Gradio builds every output of an event
    anew, changed or not: half a millisecond each. A refresh remembers what it has sent in a state of its own and never touches
    the view: choosing another run meanwhile would be undone.
    """

    context: PageContext
    view: gr.State
    visitor: gr.BrowserState
    parts: dict[str, Any] = field(default_factory=dict)
    buttons: dict[str, gr.Button] = field(default_factory=dict)
    knobs: dict[str, gr.Number] = field(default_factory=dict)

    def build(self) -> None:
        """Lay it out where the caller stands."""
        self.parts["timer"] = gr.Timer(self.context.settings.tick_seconds)
        self.parts["seen"] = gr.State({})
        # Out of sight; a hidden component would not tell that it changed.
        self.parts["pulse"] = gr.HTML("", elem_id="pulse")
        self.parts["switch"] = gr.HTML("", elem_id="switch")
        self.parts["choice"] = gr.Dropdown(choices=run_choices(self.context), value=None, label="Showing", elem_id="showing", interactive=True, filterable=True)
        self.parts["banner"] = gr.HTML(banner.nothing_yet(), elem_id="banner", elem_classes="plain-html")
        with gr.Row(elem_classes="control-row"):
            for name, label in (("pause", "Pause"), ("stop", "Stop"), ("force", "Force stop"), ("save_now", "Save now"), ("sample_now", "Sample now")):
                self.buttons[name] = gr.Button(
                    label, elem_id=f"button-{name}", interactive=False, visible=name != "force", size="md", variant="stop" if name == "force" else "secondary"
                )
        self.parts["answer"] = gr.HTML("", elem_id="answer", elem_classes="plain-html")
        self.parts["alerts"] = gr.HTML("", elem_id="alerts", elem_classes="plain-html")
        self.parts["charts"] = live_charts(elem_id="charts")
        gr.HTML(
            f'<h2 class="section-title">Samples <small>{SAMPLES_CAPTION}</small></h2>',
            elem_classes="plain-html",
        )
        self.parts["film"] = filmstrip(elem_id="film")
        self._build_knobs()
        with gr.Accordion("Log", open=False, elem_id="log-box"):
            self.parts["log"] = gr.HTML(banner.log(""), elem_id="log", elem_classes="plain-html")

    def _build_knobs(self) -> None:
        with gr.Accordion("Live knobs", open=False, elem_id="knobs-box"):
            gr.HTML(
                '<div class="caption">Change these while the run is training. Each change is checked, logged, marked on the charts and repeated on resume.</div>',
                elem_classes="plain-html",
            )
            with gr.Row():
                for name in banner.LIVE_FIELDS:
                    meta = field_meta(name)
                    self.knobs[name] = gr.Number(
                        label=meta["label"] + (" weight" if meta["group"] == "Reward weights" else ""),
                        value=None,
                        min_width=128,
                        elem_id=f"knob-{name}",
                        step=abs(meta["default"]) / 10 or 0.1,
                    )
            self.buttons["apply"] = gr.Button("Apply changes", elem_id="button-apply", interactive=False, size="md")

    @property
    def outputs(self) -> list[Any]:
        """What `refresh` returns, in order."""
        return [self.parts[name] for name in ("seen", "timer", *SHOWN, "switch")]

    def wire(self) -> None:
        """Timer, controls, knobs and the choice of the run."""
        seldom = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "trigger_mode": "once", "concurrency_limit": None}
        told = [self.view, self.visitor, self.parts["seen"]]
        self.parts["timer"].tick(self.ask, told, self.parts["pulse"], **seldom)
        self.parts["pulse"].change(self.refresh, told, self.outputs, **seldom)
        controls = [*self.buttons.values(), *self.knobs.values()]
        # None may be dropped: what it brings counts as sent.
        self.parts["switch"].change(self.controls, [self.view, self.visitor, self.parts["switch"]], controls, **{**seldom, "trigger_mode": "multiple"})
        for name in ("pause", "stop", "force", "save_now", "sample_now"):
            clicked = self.buttons[name].click(self._control(name), [self.view, self.visitor], self.parts["answer"], queue=False, show_progress="hidden", api_visibility="private")
            if name == "pause":
                self.then_train(clicked)
        knobs = list(self.knobs.values())
        gr.on(
            [self.buttons["apply"].click, *[k.submit for k in knobs]],
            self.apply_knobs,
            [self.view, self.visitor, *knobs],
            self.parts["answer"],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        choice = self.parts["choice"]
        choice.focus(lambda: gr.Dropdown(choices=run_choices(self.context)), None, choice, queue=False, show_progress="hidden", api_visibility="private")
        choice.input(self.choose, [choice, self.visitor], [self.view, self.visitor, self.parts["answer"]], queue=False, show_progress="hidden", api_visibility="private")

    def then_train(self, event: Any) -> None:
        """On a lent GPU: let an event that queued a run be followed by its next chunk."""
        if self.context.settings.zero_gpu:
            work = {"concurrency_limit": 1, "concurrency_id": "device", "show_progress": "hidden", "api_visibility": "private"}
            event.success(self.train_chunk, [self.view, self.visitor], self.parts["answer"], **work)

    def ask(self, view: dict[str, Any], visitor: Any, seen: dict[str, Any], request: gr.Request | None = None) -> Any:
        """A word never said before where `refresh` has news for this viewer, else `gr.skip()`."""
        return str(time.monotonic_ns()) if self._latest(view, visitor, request) != self._had(view, seen) else gr.skip()

    def refresh(self, view: dict[str, Any], visitor: Any, seen: dict[str, Any], request: gr.Request | None = None) -> tuple[Any, ...]:
        """News for one viewer; `gr.skip()` for all that it has already."""
        latest, had = self._latest(view, visitor, request), self._had(view, seen)
        fresh = {name for name in latest if latest[name] != had.get(name)}
        pace = gr.Timer(latest["pace"]) if "pace" in fresh else gr.skip()
        switched = sorted(fresh & {"buttons", "knobs", "gone"})
        switch = " ".join([*switched, str(time.monotonic_ns())]) if switched else gr.skip()
        if "gone" in fresh:
            blank = {"banner": note(latest["gone"], "bad"), "charts": None, "film": None, "alerts": "", "log": banner.log("")}
            return (latest, pace, *(blank[name] for name in SHOWN), switch)
        if not fresh & {*SHOWN}:
            return (latest, pace, *(gr.skip(),) * len(SHOWN), switch)
        feed = self.context.feed(view["run"], view["source"])
        parts = feed.parts | {"log": banner.log(feed.parts["log"])}
        return (latest, pace, *(parts[name] if name in fresh else gr.skip() for name in SHOWN), switch)

    def controls(self, view: dict[str, Any], visitor: Any, switch: str, request: gr.Request | None = None) -> list[Any]:
        """Buttons and knobs as they are now; knobs only where `switch` names them, or what is being typed would be lost."""
        latest = self._latest(view, visitor, request)
        if "buttons" not in latest:
            return [gr.update(interactive=False)] * len(self.buttons) + [gr.skip()] * len(self.knobs)
        feed = self.context.feed(view["run"], view["source"])
        values = [feed.parts["knobs"].get(name) for name in self.knobs] if "knobs" in switch else [gr.skip()] * len(self.knobs)
        return [*self._buttons(*latest["buttons"][:2], feed.status), *values]

    def _had(self, view: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
        """What the viewer was sent of what it looks at now: nothing but its pace where that was another run."""
        which = _which(view)
        return seen if which.items() <= seen.items() else {"pace": seen.get("pace", self.context.settings.tick_seconds), **which}

    def _latest(self, view: dict[str, Any], visitor: Any, request: gr.Request | None) -> dict[str, Any]:
        """What a viewer that has everything would have seen: its pace and, where it looks at a run, the versions of the parts, or why it is gone."""
        latest: dict[str, Any] = {"pace": self.context.audience.ask(getattr(request, "session_hash", None) or ""), **_which(view)}
        if not latest["run"]:
            return latest
        try:
            feed = self.context.feed(view["run"], view["source"])
            feed.refresh()
            mine = view["source"] == "runs" and self.context.manager.may_steer(view["run"], owner_of(visitor, request))
        except (InputError, OSError) as error:
            return latest | {"gone": str(error)}
        buttons = (feed.status["effective_state"], mine, feed.status["offer_force"], feed.status.get("requested"))
        return latest | {name: feed.versions[name] for name in (*SHOWN, "knobs")} | {"buttons": buttons}

    def _buttons(self, state: str, mine: bool, status: dict[str, Any]) -> list[Any]:
        resume = state in RESUMABLE or state == "paused" or status.get("requested") == "pause"
        stopping = status.get("requested") == "stop" or state == "stopping"
        enabled = {
            "pause": mine and not stopping and (resume or state in {"running", "starting"}),
            "stop": mine and not stopping and state in {"queued", "starting", "running", "paused"},
            "force": mine and stopping,
            "save_now": mine and state in {"running", "paused"} and not stopping,
            "sample_now": mine and state in {"running", "paused"} and not stopping,
            "apply": mine and state in {"starting", "running", "paused"},
        }
        labels = {"pause": self.resume_word if resume else "Pause", "stop": "Leave the queue" if state == "queued" else "Stop"}
        variant = {"pause": "primary" if state in RESUMABLE and mine else "secondary"}
        out = []
        for name in self.buttons:
            changes: dict[str, Any] = {"interactive": enabled[name]}
            if name in labels:
                changes["value"] = labels[name]
            if name in variant:
                changes["variant"] = variant[name]
            if name == "force":
                changes["visible"] = stopping and bool(status.get("offer_force"))
            out.append(gr.update(**changes))
        return out

    def _control(self, name: str) -> Callable[..., str]:
        def act(view: dict[str, Any], visitor: Any, request: gr.Request | None = None) -> str:
            """Leave the request and say what will happen, or why not."""
            manager, owner = self.context.manager, owner_of(visitor, request)
            try:
                if view["source"] != "runs" or not view["run"]:
                    raise InputError("this is a recorded run: start one of your own to steer it")
                state = self.context.store.effective_state(self.context.run(view["run"]))
                if name == "pause":
                    pausing = manager.status(view["run"])["requested"] == "pause"
                    resume = pausing or state in RESUMABLE | {"paused"}
                    (manager.resume if resume else manager.pause)(view["run"], owner)
                    return note("Resume requested." if resume else "Pause requested: it holds after this episode.")
                action = {"stop": manager.stop, "force": manager.force_stop, "save_now": manager.save_now, "sample_now": manager.sample_now}[name]
                answer = action(view["run"], owner)
                when = "the next episode, once resumed" if state == "paused" else "this episode"
                said = {
                    "stop": "Stop requested: a checkpoint is written first." if answer else "It left the queue.",
                    "save_now": f"A checkpoint is written after {when}.",
                    "sample_now": f"A sample grid is drawn after {when}.",
                }
                return note(answer if name == "force" and answer else said.get(name, "Done."))
            except InputError as error:
                return note(str(error), "warn")

        return act

    @property
    def resume_word(self) -> str:
        """What the button says that lets a run go on."""
        return "Continue" if self.context.settings.zero_gpu else "Resume"

    def train_chunk(self, view: dict[str, Any], visitor: Any, request: gr.Request | None = None) -> Any:
        """On a lent GPU: train the run that waits, within the visitor's own event."""
        try:
            if view["source"] != "runs" or not view["run"]:
                return gr.skip()
            sentence = self.context.manager.train_chunk(view["run"], owner_of(visitor, request))
        except InputError as error:
            return note(str(error), "warn")
        return note(sentence) if sentence else gr.skip()

    def apply_knobs(self, request: gr.Request | None, view: dict[str, Any], visitor: Any, *values: Any) -> str:
        """Ask for the live changes that differ from what the run has now; for none where one is refused."""
        try:
            if view["source"] != "runs" or not view["run"]:
                raise InputError("this is a recorded run: start one of your own to steer it")
            present = self.context.feed(view["run"], view["source"]).parts["knobs"]
            wanted = {name: value for name, value in zip(self.knobs, values, strict=True) if value is not None and value != present.get(name)}
            config = self.context.run(view["run"]).config
            for name, value in wanted.items():
                validate_change(config, name, value)
            for name, value in wanted.items():
                self.context.manager.change(view["run"], name, value, owner_of(visitor, request))
        except InputError as error:
            return note(str(error), "warn")
        return note("Asked for " + ", ".join(f"{field_meta(n)['label']} = {v:g}" for n, v in wanted.items()) + "." if wanted else "Nothing differs from what the run has now.")

    def choose(self, choice: Any, visitor: Any) -> tuple[dict[str, Any], Any, str]:
        """Look at another run."""
        try:
            source, run_id = parse_choice(choice)
            self.context.run(run_id, source)
        except InputError as error:
            return gr.skip(), gr.skip(), note(str(error), "warn")
        remembered = {**(visitor if isinstance(visitor, dict) else {}), "last_run": run_id}
        return view_of(run_id, source), remembered, ""


def _which(view: dict[str, Any]) -> dict[str, str]:
    """The run that a view looks at; an empty name for none."""
    return {"run": view.get("run", ""), "source": view.get("source", "runs")}
