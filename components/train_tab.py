"""The Train tab: the form on the left, the live view on the right."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from backend.config import field_names, read_config_file
from backend.errors import InputError
from components import form, presets
from components.attach import greet, run_choices, view_of
from components.context import PageContext
from components.login import owner_of
from components.markup import note
from components.monitor import Monitor

OTHERS = ("visitor",)
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
OPEN_FIELD = """
// Gradio's own marks at fields last until the next event of the page ends, a second at most; these until the field is edited.
const open = () => {
  document.querySelectorAll('.field-refusal').forEach(mark => mark.remove());
  let first = null;
  for (const [name, message] of Object.entries((props.value && props.value.problems) || {})) {
    const target = document.getElementById('field-' + name);
    if (!target) continue;
    const mark = document.createElement('div');
    mark.className = 'field-refusal';
    mark.textContent = message;
    target.append(mark);
    target.addEventListener('input', () => mark.remove(), { once: true });
    const box = target.closest('[id^="group-"]');
    const toggle = box && box.querySelector('button.label-wrap');
    if (toggle && !toggle.classList.contains('open')) toggle.click();
    first = first || target;
  }
  // No focus: a number field drops the refusal's message when it is focused.
  if (first) setTimeout(() => first.scrollIntoView({ block: 'center' }), 250);
};
watch('value', open);
"""
DOWNLOAD = """
// A download button gives the file that it had before the click.
watch('value', () => {
  if (!props.value || !props.value.name) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([props.value.text], { type: 'application/json' }));
  link.download = props.value.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
"""
TO_BANNER = "() => { if (window.innerWidth < 900) { const b = document.getElementById('banner'); if (b) b.scrollIntoView({behavior: 'smooth', block: 'start'}); } }"


class TrainTab:
    """Widgets and events of the tab."""

    def __init__(self, context: PageContext, view: gr.State, visitor: gr.BrowserState) -> None:
        self.context = context
        self.monitor = Monitor(context, view, visitor)
        self.fields: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}

    def build(self, reference_strip: str) -> None:
        """Lay out and wire the tab.

        Args:
            reference_strip: HTML of the reference set's thumbnails, shown below the samples.
        """
        values = presets.preset_values(presets.preset_choices()[0][1], self.context)
        with gr.Row(equal_height=False, elem_id="train-grid"):
            with gr.Column(min_width=280, elem_id="form-column"):
                self._build_form(values)
            with gr.Column(min_width=280, elem_id="monitor-column"):
                self.monitor.build()
                gr.HTML(reference_strip, elem_id="reference-strip", elem_classes="plain-html")
            with gr.Column(min_width=280, elem_id="settings-column"):
                self._build_settings(values)
        self.fields = form.in_order(self.fields)
        self._wire()
        self.monitor.wire()

    def _build_form(self, values: dict[str, Any]) -> None:
        extra, context = self.extra, self.context
        choices = presets.preset_choices()
        with gr.Row(elem_classes="control-row", equal_height=False):
            extra["preset"] = gr.Dropdown(choices=choices, value=choices[0][1], label="Preset", elem_id="preset", scale=3, min_width=150)
            extra["apply_preset"] = gr.Button("Apply", elem_id="apply-preset", scale=1, min_width=80, size="md")
        extra["preset_note"] = gr.HTML(presets.preset_sentence(choices[0][1]), elem_classes="plain-html")
        for name in ("mode", "metric"):
            self.fields.update(form.build_fields(context, (name,), values))
            extra[f"{name}_note"] = gr.HTML(form.sentence_of(name, values[name]), elem_classes="plain-html")
        with gr.Row():
            self.fields.update(form.build_fields(context, ("episodes", "seed"), values))
        _, estimate = form.preview(values, context)
        extra["estimate"] = gr.HTML(estimate, elem_id="estimate-box", elem_classes="plain-html")
        extra["start"] = gr.Button("Start", variant="primary", size="lg", elem_id="start")
        extra["problem"] = gr.HTML("", elem_id="problem", elem_classes="plain-html")
        extra["opener"] = gr.HTML({}, html_template="", js_on_load=OPEN_FIELD, visible=True, elem_id="opener")

    def _build_settings(self, values: dict[str, Any]) -> None:
        extra = self.extra
        fields, sentences = form.build_accordions(self.context, values)
        self.fields.update(fields)
        extra.update({f"{name}_note": sentence for name, sentence in sentences.items()})
        command, _ = form.preview({**values}, self.context)
        with gr.Accordion("Equivalent command", open=False, elem_id="command-box"):
            extra["command"] = gr.Code(command, language="shell", interactive=False, lines=2, label="Trains with exactly these settings", elem_id="command", wrap_lines=True)
        with gr.Accordion("Save or load settings", open=False, elem_id="config-box"):
            extra["save"] = gr.Button("Save settings as JSON", elem_id="save-config", size="md")
            extra["saved"] = gr.HTML({}, html_template="", js_on_load=DOWNLOAD, visible=True, elem_id="saved")
            extra["load"] = gr.File(label="Load settings (JSON or YAML)", file_types=[".json", ".yaml", ".yml"], type="filepath", elem_id="load-config", height=110)
            extra["load_note"] = gr.HTML("", elem_id="load-note", elem_classes="plain-html")

    def _wire(self) -> None:
        extra, fields = self.extra, self.fields
        everything = list(fields.values())
        shown = [extra["command"], extra["estimate"]]
        gr.on([w.input for w in everything], self.edited, None, shown, inputs_kwargs=fields, queue=False, trigger_mode="always_last", **PRIVATE)
        for name in form.REGISTRIES:
            fields[name].change(lambda value, kind=name: form.sentence_of(kind, value), fields[name], extra[f"{name}_note"], queue=False, **PRIVATE)
        for name in self.context.offered:  # a model or a set that the command line has made meanwhile
            fields[name].focus(lambda kind=name: gr.Dropdown(choices=self.context.trusted_choices(kind)), None, fields[name], queue=False, **PRIVATE)
        extra["preset"].change(lambda name: presets.preset_sentence(name, applied=False), extra["preset"], extra["preset_note"], queue=False, **PRIVATE)
        extra["apply_preset"].click(presets.preset_sentence, extra["preset"], extra["preset_note"], queue=False, **PRIVATE)
        extra["apply_preset"].click(self.apply_preset, extra["preset"], [*everything, *shown], queue=False, **PRIVATE)
        start_outputs = [self.monitor.view, self.monitor.visitor, self.monitor.parts["choice"], extra["problem"]]
        # One after the other: an event that ends later would wipe the validator's marks off the fields.
        asked = extra["start"].click(self.refusal, None, [extra["problem"], extra["opener"]], inputs_kwargs=fields, queue=False, **PRIVATE)
        begun = asked.then(
            self.start,
            None,
            start_outputs,
            inputs_kwargs={**fields, "visitor": self.monitor.visitor},
            validator=form.validator_for(self.context, OTHERS),
            concurrency_limit=None,
            api_name="start_from_form",
            **PRIVATE,
        )
        self.monitor.then_train(begun)
        begun.success(None, js=TO_BANNER, api_visibility="private")
        extra["save"].click(self.save_config, None, extra["saved"], inputs_kwargs=fields, queue=False, **PRIVATE)
        extra["load"].upload(self.load_config, extra["load"], [extra["load_note"], *everything, *shown], queue=False, **PRIVATE)

    def edited(self, **values: Any) -> tuple[str, str]:
        """Command line and estimate of the edited form."""
        return form.preview(values, self.context)

    def refusal(self, **values: Any) -> tuple[str, dict[str, Any]]:
        """Why Start would be refused, and the fields to open and mark; nothing where it can run."""
        problems = form.refusals(values, self.context)
        if not problems:
            return "", {}
        first, *others = problems.values()
        more = f" (and {len(others)} more, each marked at its field)" if others else ""
        return note(first + more, "bad"), {"problems": problems, "asked": time.monotonic_ns()}

    def start(self, request: gr.Request | None = None, *, visitor: Any = None, **values: Any) -> tuple[Any, ...]:
        """Queue a run with the form's content; the form stays as it is."""
        visitor = greet(visitor)
        try:
            config = form.to_config(values, self.context)
            form.check_caps(config, self.context)
            ticket = self.context.manager.start({n: getattr(config, n) for n in field_names()}, owner=owner_of(visitor, request))
        except InputError as error:
            return gr.skip(), gr.skip(), gr.skip(), note(str(error), "bad")
        visitor["last_run"] = ticket.run_id
        choice = gr.Dropdown(choices=run_choices(self.context), value=f"runs/{ticket.run_id}")
        return view_of(ticket.run_id, "runs"), visitor, choice, ""

    def apply_preset(self, name: str) -> list[Any]:
        """The whole form from a preset."""
        values = presets.preset_values(name, self.context)
        return [*(values[n] for n in self.fields), *form.preview(values, self.context)]

    def save_config(self, **values: Any) -> dict[str, Any]:
        """Name and text of a JSON file of the form's content.

        Raises:
            gr.Error: the form holds a refused value.
        """
        try:
            config = form.to_config(values, self.context)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error
        name = f"craterlab_{config.mode.lower()}_{config.metric.lower()}.json"
        return {"name": name, "text": form.config_json(config), "asked": time.monotonic_ns()}

    def load_config(self, path: str | None) -> list[Any]:
        """The form from an uploaded file, or a sentence that says why not and the form as it was."""
        keep = [gr.skip()] * (len(self.fields) + 2)
        if not path:
            return ["", *keep]
        try:
            read = read_config_file(path, trusted=False, offered=self.context.offered)
            values = {**self.context.default_values(), **read}
            config = form.to_config(values, self.context)
            unknown = sorted(set(read) - set(field_names()))
            if unknown:
                raise InputError(f"unknown setting {unknown[0]!r}: `python -m backend config` lists them all")
        except InputError as error:
            return [note(str(error), "bad"), *keep]
        values = {n: getattr(config, n) for n in field_names()}
        return [note(f"Loaded {len(read)} settings.", "good"), *(values[n] for n in self.fields), *form.preview(values, self.context)]

    def load_values(self, values: dict[str, Any]) -> list[Any]:
        """Outputs that fill the form with a run's settings (Clone)."""
        return [*(values[n] for n in self.fields), *form.preview(values, self.context)]
