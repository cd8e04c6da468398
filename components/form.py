"""Widgets made from the config's fields, and the way back from widgets to a validated config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from backend.config import EXTRACTORS, GROUPS, METRICS, POLICIES, TrainConfig, command_line, config_refusals, field_meta, field_names, make_config
from backend.errors import InputError
from components.context import PageContext
from components.markup import note, number, text

REGISTRIES = {"mode": POLICIES, "metric": METRICS, "extractor": EXTRACTORS}
FIRST = ("mode", "metric", "episodes", "seed")  # always in sight; their words stand beside them or in the glossary


def widget(name: str, context: PageContext, value: Any) -> gr.components.Component:
    """The widget of one setting; bounds are checked by the config itself so that every refusal reads the same.

    Args:
        name: a field of `TrainConfig`.
        context: shared state, for the files and folders that this server offers.
        value: first content.
    """
    meta = field_meta(name)
    plain = name in FIRST
    common = {"label": meta["label"], "info": None if plain else meta["help"] + _bounds(meta), "value": value, "elem_id": f"field-{name}", "interactive": True}
    if meta["options"]:
        return gr.Dropdown(choices=REGISTRIES[meta["options"]].names(), **common)
    if meta["trusted"]:
        return gr.Dropdown(choices=context.trusted_choices(name), **common)
    if meta["choices"]:
        return gr.Dropdown(choices=list(meta["choices"]), **common)
    if meta["annotation"] is bool:
        return gr.Checkbox(**common)
    if meta["annotation"] in (int, float):
        return gr.Number(step=_step(meta), **common)
    return gr.Textbox(max_lines=1, max_length=400, **common)


def _bounds(meta: Mapping[str, Any]) -> str:
    low, high = meta["minimum"], meta["maximum"]
    if low is None or high is None:
        return ""
    return f" ({low:,g} to {high:,g})" if high < 1e6 else f" (from {low:,g})"


def _step(meta: Mapping[str, Any]) -> float:
    if meta["annotation"] is int:
        return 1
    size = abs(meta["default"]) or 1.0
    return 10.0 ** (len(str(int(size))) - 2) if size >= 1 else float(f"1e{int(f'{size:e}'.split('e')[1])}")


def build_fields(context: PageContext, names: tuple[str, ...] | list[str], values: Mapping[str, Any]) -> dict[str, gr.components.Component]:
    """Widgets of some settings, in order, where the caller's layout stands."""
    return {name: widget(name, context, values[name]) for name in names}


def build_accordions(context: PageContext, values: Mapping[str, Any]) -> tuple[dict[str, gr.components.Component], dict[str, gr.HTML]]:
    """One closed accordion per group with all that is not in the first block; and by setting the sentences below those that are names of a table."""
    fields: dict[str, gr.components.Component] = {}
    sentences: dict[str, gr.HTML] = {}
    for group in GROUPS:
        names = [n for n in field_names(group) if n not in FIRST]
        title = "Model, prompts and note" if group == "Run" else group
        with gr.Accordion(title, open=False, elem_id=f"group-{group.lower().replace(' ', '-')}", elem_classes="compact-form"):
            for name in names:
                fields.update(build_fields(context, (name,), values))
                if name in REGISTRIES:
                    sentences[name] = gr.HTML(sentence_of(name, values[name]), elem_id=f"sentence-{name}", elem_classes="plain-html")
    return fields, sentences


def in_order(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same widgets in the schema's order: inputs, validator results and outputs all follow it."""
    return {name: fields[name] for name in field_names()}


def to_config(values: Mapping[str, Any], context: PageContext | None = None) -> TrainConfig:
    """Validate the form's content.

    Raises:
        InputError: the first refusal, its field named.
    """
    given = _given(values)
    for refusal in _barred(given, context):
        raise refusal
    return make_config(given)


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The form's settings by name, as the schema wants them."""
    return {name: _tidy(name, values[name]) for name in field_names() if name in values}


def _barred(given: Mapping[str, Any], context: PageContext | None) -> list[InputError]:
    """What is refused before the schema looks: empty fields, then what this server does not offer."""
    empty = [InputError(f"{field_meta(n)['label']} is empty: give a value (default {field_meta(n)['default']!r})", field=n) for n, value in given.items() if value is None]
    return empty + (context.untrusted(given) if context is not None else [])


def _tidy(name: str, value: Any) -> Any:
    whole = field_meta(name)["annotation"] is int and isinstance(value, float) and value == value and abs(value) < 2**53 and value == int(value)
    return int(value) if whole else value


def refusals(values: Mapping[str, Any], context: PageContext) -> dict[str, str]:
    """Message by field of all that would be refused; empty when the form can run. A refusal of no one field is under ""."""
    given = _given(values)
    problems = _barred(given, context) + config_refusals({name: value for name, value in given.items() if value is not None})
    if not problems:
        try:
            check_caps(make_config(given), context)
        except InputError as error:
            problems = [error]
    named: dict[str, str] = {}
    for problem in problems:
        named.setdefault(problem.field if problem.field in field_names() else "", str(problem))
    return named


def check_caps(config: TrainConfig, context: PageContext) -> None:
    """Refuse what a public demo does not give.

    Raises:
        InputError: too many episodes, images or denoising steps, with the cap.
    """
    context.manager.limits.check_settings(config)


def validator_for(context: PageContext, others: tuple[str, ...] = ()) -> Any:
    """The function that marks a field before anything starts; results in the order of the inputs.

    Args:
        context: shared state.
        others: inputs besides the fields, always valid.
    """

    def validate(**values: Any) -> list[dict[str, Any]]:
        problems = refusals({n: values[n] for n in field_names()}, context)
        general = problems.pop("", "")
        if general:
            problems[_blamed(general)] = general
        return [gr.validate(name not in problems, problems.get(name, "")) for name in [*field_names(), *others]]

    return validate


def _blamed(message: str) -> str:
    """The field that a refusal of several fields begins with."""
    first = message.split(" ", 1)[0]
    return first if first in field_names() else "mode"


def preview(values: Mapping[str, Any], context: PageContext) -> tuple[str, str]:
    """The equivalent command, and the sentence about time and memory (or what to mend), from the same object that is run.

    Returns:
        The command line, or what it was refused for; and an HTML note.
    """
    problems = refusals(values, context)
    if problems:
        name, message = next(iter(problems.items()))
        place = f"{field_meta(name)['group']} › {field_meta(name)['label']}: " if name else ""
        return f"# {message}", note(place + message, "bad")
    config = to_config(values, context)
    return command_line(config), estimate_note(config)


def estimate_note(config: TrainConfig) -> str:
    """Expected time and memory of these settings from the measured cost model, and a word where they train by sampled credit."""
    from backend.training.cost import estimate
    from backend.training.summary import why_sampled

    why = why_sampled(config)
    warning = f" Trained by sampled credit, for {why}: that learns slower and less surely than with {_differentiable()}, which have a derivative." if why else ""
    return f'<div class="caption" id="estimate">{text(estimate(config).text + "." * bool(why) + warning)}</div>'


def _differentiable() -> str:
    """The metrics that have a derivative, in words."""
    *names, last = (entry.name for entry in METRICS if entry.differentiable)
    return f"{', '.join(names)} and {last}"


def sentence_of(kind: str, name: str) -> str:
    """What a policy, metric or extractor is, and what it would download."""
    entry = REGISTRIES[kind].get(name)
    download = f" Needs {entry.download} once." if entry.download else ""
    return f'<div class="caption">{text(entry.sentence + download)}</div>'


def config_json(config: TrainConfig) -> str:
    """The config as the file that Save gives and Load takes."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


def value_text(value: Any) -> str:
    """A setting's value for a table."""
    return number(value, 6) if isinstance(value, float) else str(value)
