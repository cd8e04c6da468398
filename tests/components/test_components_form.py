"""Widgets, validator, command line, presets and schema speak of the same settings."""

from __future__ import annotations

import html
import json
import shlex
from pathlib import Path

import gradio as gr
import pytest

from backend.config import TrainConfig, field_meta, field_names, load_preset, make_config, resolve
from backend.errors import InputError
from backend.reference.manifest import write_manifest
from backend.training.cost import estimate
from backend.training.limits import Limits
from backend.training.manager import Ticket
from components import form, presets
from components.context import PageContext, Settings
from components.endpoints import Endpoints
from components.train_tab import OTHERS, TrainTab


def build(context: PageContext) -> TrainTab:
    with gr.Blocks():
        tab = TrainTab(context, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        tab.build("")
    return tab


def test_every_setting_has_one_widget_with_its_label_help_and_default(context: PageContext) -> None:
    tab = build(context)
    assert list(tab.fields) == field_names()
    start = presets.preset_values(presets.preset_choices()[0][1], context)
    for name, widget in tab.fields.items():
        meta = field_meta(name)
        assert widget.label == meta["label"]
        assert widget.value == start[name], name
        if name not in form.FIRST:
            assert widget.info.startswith(meta["help"]), name
        if meta["choices"]:
            assert [c[1] for c in widget.choices] == list(meta["choices"])
        if meta["options"]:
            assert [c[1] for c in widget.choices] == form.REGISTRIES[meta["options"]].names()


def test_validator_answers_in_the_order_of_the_inputs(context: PageContext) -> None:
    values = {**context.default_values(), "learning_rate": -1.0}
    answers = form.validator_for(context, OTHERS)(**values, visitor=None)
    assert len(answers) == len(field_names()) + len(OTHERS)
    refused = [n for n, a in zip([*field_names(), *OTHERS], answers, strict=True) if not a["is_valid"]]
    assert refused == ["learning_rate"]
    message = answers[field_names().index("learning_rate")]["message"]
    assert "-1.0" in message and "0.001" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("episodes", 0),
        ("episodes", None),
        ("episodes", 2.5),
        ("learning_rate", float("nan")),
        ("window_size", 9),
        ("minibatches", 10_000),
        ("company", 513),
        ("mode", "NONE"),
        ("base_model", "/etc"),
    ],
)
def test_bad_values_are_refused_at_their_field(context: PageContext, name: str, value: object) -> None:
    problems = form.refusals({**context.default_values(), name: value}, context)
    assert len(problems) == 1
    blamed = next(iter(problems)) or form._blamed(next(iter(problems.values())))
    assert blamed == ("window_start" if name == "window_size" else name)


def test_company_that_no_metric_asks_for_is_no_fault(context: PageContext) -> None:
    values = {**context.default_values(), "company": 513}
    assert not form.refusals({**values, "metric": "COVERAGE"}, context) and not form.refusals({**values, "queue_size": 513}, context)


def test_every_bad_value_is_refused_at_its_own_field(context: PageContext) -> None:
    bad = {"learning_rate": -3.0, "episodes": None, "guidance_scale": 99.0, "base_model": "/etc"}
    problems = form.refusals({**context.default_values(), **bad}, context)
    assert set(problems) == set(bad)
    assert all(name in problems[name] or "is empty" in problems[name] for name in bad)


def test_preview_is_the_command_of_the_object_that_is_run(context: PageContext) -> None:
    values = {**context.default_values(), "episodes": 7.0, "metric": "VENDI", "note": "it's $HOME `x`"}
    command, _ = form.preview(values, context)
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "backend", "train"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    rebuilt = make_config({flag[2:].replace("-", "_"): value for flag, value in given.items()})
    assert rebuilt == form.to_config(values)
    assert rebuilt.episodes == 7 and isinstance(rebuilt.episodes, int)


def test_the_command_names_what_the_server_s_environment_would_change(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRATER_LEARNING_RATE", "1e-4")
    back = {**context.default_values(), "learning_rate": TrainConfig().learning_rate}
    command, _ = form.preview(back, context)
    words = shlex.split(command)
    flags = {"learning_rate": words[words.index("--learning-rate") + 1]}
    assert resolve(flags).learning_rate == form.to_config(back).learning_rate == TrainConfig().learning_rate
    monkeypatch.delenv("CRATER_LEARNING_RATE")
    assert "--learning-rate" not in form.preview(back, context)[0]


def test_the_page_says_what_an_extractor_needs_to_download(context: PageContext) -> None:
    with gr.Blocks() as page:
        tab = TrainTab(context, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        tab.build("")
    sentence = tab.extra["extractor_note"]
    (told,) = [function for function in page.fns.values() if sentence in function.outputs]
    assert told.inputs == [tab.fields["extractor"]] and "Needs" not in sentence.value
    assert "Needs openai/clip-vit-base-patch32, 605 MB once." in told.fn("clip")


def test_preview_of_a_refused_form_says_what_to_mend(context: PageContext) -> None:
    command, sentence = form.preview({**context.default_values(), "guidance_scale": 99.0}, context)
    assert command.startswith("# guidance_scale = 99.0")
    assert "Sampling › Guidance" in sentence


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"metric": "COVERAGE"}, "COVERAGE has no derivative"),
        ({"ensemble": "MMD=1, MI=0.5, FID=1"}, "MI and FID have no derivative"),
        ({"pathwise": 0.0}, "the pathwise share is 0"),
        ({"advantage": "gae"}, "credit 'gae'"),
        ({"prompts_per_group": 2, "images_per_prompt": 1}, "a group of 2"),
    ],
)
def test_preview_says_where_a_run_would_learn_by_sampled_credit(context: PageContext, changes: dict, why: str) -> None:
    _, sentence = form.preview({**context.default_values(), **changes}, context)
    assert ("sampled credit, for " in sentence and "MMD, MMD_VENDI, VENDI and DPP" in sentence) == bool(why) and html.escape(why) in sentence


def test_presets_are_complete_and_valid(context: PageContext) -> None:
    names = [name for _, name in presets.preset_choices()]
    assert names[:5] == list(presets.ORDER)
    for name in names:
        preset = load_preset(name, presets.FOLDER)
        large = preset["values"].get("device") == "cuda"
        assert set(preset) == {"name", "title", "description", "values"} | ({"large_model", "minutes", "memory_gib"} if large else set())
        assert not large or (preset["large_model"] is True and preset["minutes"] > 0 and preset["memory_gib"] > 0)
        make_config(presets.preset_values(name, context))


@pytest.mark.parametrize("name", ["quick_look", "laptop", "overnight_cpu"])
def test_a_preset_names_the_time_and_memory_of_the_estimate_below_it(context: PageContext, name: str) -> None:
    said = presets.preset_sentence(name).partition("<b>About ")[2]
    expected = estimate(make_config(presets.preset_values(name, context)))
    minutes = expected.seconds_total / 60
    assert said.startswith(f"{minutes:.0f} min, " if minutes < 90 else f"{minutes / 60:.0f} h, ") and f", {expected.memory_gib:.1f} GiB." in said


def test_a_preset_for_a_large_model_says_that_the_embedded_one_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one_gpu_sd15", "many_gpus"):
        assert f"preset {name} is meant for a model of Stable Diffusion&#x27;s size: name one with" in presets.preset_sentence(name)
    assert "is meant for" not in presets.preset_sentence("laptop")
    monkeypatch.setenv("CRATER_BASE_MODEL", "owner/large")
    assert "is meant for" not in presets.preset_sentence("one_gpu_sd15")


def test_a_chosen_preset_is_called_not_applied_until_apply(context: PageContext) -> None:
    with gr.Blocks() as page:
        tab = TrainTab(context, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        tab.build("")
    said = {kind: event.fn("laptop") for event in page.fns.values() if event.outputs == [tab.extra["preset_note"]] for _, kind in event.targets}
    assert {kind: "Not applied yet" in sentence for kind, sentence in said.items()} == {"change": True, "click": False}
    assert "Not applied yet" not in tab.extra["preset_note"].value, "the page opens with its first preset in the form"


def test_environment_wins_over_presets(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRATER_EPISODES", "3")
    assert presets.preset_values("quick_look", context)["episodes"] == 3


def test_caps_of_a_public_demo(tmp_path: Path) -> None:
    demo = PageContext.create(tmp_path, Settings(public_demo=True, max_episodes=10, max_images=100))
    little = {"probe_every": 0, "eval_images": 8}
    form.check_caps(TrainConfig(episodes=6, **little), demo)
    with pytest.raises(InputError, match="at most 10"):
        form.check_caps(TrainConfig(episodes=11), demo)
    with pytest.raises(InputError, match="at most 100"):
        form.check_caps(TrainConfig(episodes=7, **little), demo)
    with pytest.raises(InputError, match="at most 100") as refused:
        form.check_caps(TrainConfig(episodes=6, probe_every=0, eval_images=65536), demo)
    assert refused.value.field == "eval_images"


def test_settings_read_the_environment(tmp_path: Path) -> None:
    assert Settings.from_environment({}) == Settings()
    public = Settings.from_environment({"SPACE_ID": "me/lab", "CRATER_MAX_EPISODES": "5"})
    assert public.public_demo and public.require_token and public.max_episodes == 5 and "5 episodes" in public.sentence()
    assert PageContext.create(tmp_path, public).manager.limits == Limits(max_episodes=5, max_images=1600, max_minutes=60, max_queue=8, runs_per_owner=1, keep_runs=50)
    assert Settings.from_environment({"GRADIO_SERVER_NAME": "0.0.0.0"}).require_token, "a page that others can reach must ask for the token"
    assert not Settings.from_environment({"GRADIO_SERVER_NAME": "127.0.0.1"}).require_token
    assert Settings.from_environment({"GRADIO_SHARE": "True"}).require_token, "gradio opens a public link"
    assert not Settings.from_environment({"GRADIO_SHARE": "False"}).require_token
    with pytest.raises(InputError, match="CRATER_MAX_QUEUE"):
        Settings.from_environment({"CRATER_MAX_QUEUE": "many"})
    assert Settings.from_environment({"CRATER_TICK_SECONDS": "0.5"}).tick_seconds == 0.5
    for value in ("abc", "0", "-1", "nan", "inf"):
        with pytest.raises(InputError, match=f"CRATER_TICK_SECONDS = '{value}': give seconds above 0"):
            Settings.from_environment({"CRATER_TICK_SECONDS": value})


def test_saved_settings_load_again_and_uploads_cannot_name_files(context: PageContext, tmp_path: Path) -> None:
    tab = build(context)
    values = {**context.default_values(), "lora_rank": 4, "metric": "DPP"}
    saved = tab.save_config(**values)
    file = tmp_path / saved["name"]
    file.write_text(saved["text"], encoding="utf-8")
    loaded = tab.load_config(str(file))
    assert dict(zip(tab.fields, loaded[1:-2], strict=True)) == values
    for bad, expected in (({"base_model": "evil/model"}, "base_model"), ({"plugin": "x.py"}, "plug-in"), ({"nonsense": 1}, "nonsense"), ([1], "list")):
        file = tmp_path / "bad.json"
        file.write_text(json.dumps(bad), encoding="utf-8")
        answer = tab.load_config(str(file))
        assert expected in answer[0] and "note-bad" in answer[0]
        assert all(update == gr.skip() for update in answer[1:]), "the form must stay as it was"


def test_what_the_command_line_makes_in_the_project_folder_can_be_chosen(context: PageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.context.ROOT", tmp_path)
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "models/mine/model_index.json").write_text("{}", encoding="utf-8")
    (tmp_path / "models/half").mkdir()
    for name, manifest in (("my_reference", None), ("no_manifest", "{}"), ("deep/inside", None)):
        (tmp_path / name).mkdir(parents=True)
        write_manifest(tmp_path / name, {}, [{"file": "images/0.png", "caption": "", "sha256": ""}])
        if manifest is not None:
            (tmp_path / name / "manifest.json").write_text(manifest, encoding="utf-8")
    assert context.trusted_choices("base_model") == ["assets/models/crater-tiny", "models/mine"]
    assert context.trusted_choices("reference") == ["reference_data", "my_reference"]
    with gr.Blocks() as page:
        tab = TrainTab(context, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        tab.build("")
    (tmp_path / "models/newer").mkdir()
    (tmp_path / "models/newer/model_index.json").write_text("{}", encoding="utf-8")
    (looked,) = [event for event in page.fns.values() if event.targets == [(tab.fields["base_model"]._id, "focus")]]
    assert [value for _, value in looked.fn().choices] == ["assets/models/crater-tiny", "models/mine", "models/newer"], "one that is made while the page is open"
    named = make_config({"reference": "my_reference/", "base_model": "models/mine/"})  # as a shell completes them
    assert not context.untrusted({"reference": named.reference, "base_model": named.base_model})
    (tmp_path / "no_manifest/manifest.json").unlink()
    write_manifest(tmp_path / "no_manifest", {}, [{"file": "images/0.png", "caption": "", "sha256": ""}])
    assert "no_manifest" in context.trusted_choices("reference"), "a set that is imported while the server runs"
    demo = PageContext.create(tmp_path / "runs", Settings(public_demo=True))
    assert demo.trusted_choices("reference") == ["reference_data"] and demo.trusted_choices("base_model") == ["assets/models/crater-tiny"]


def test_settings_that_the_server_offers_are_taken_from_files_and_from_the_endpoint(context: PageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRATER_BASE_MODEL", "lab/model")
    folder = context.references.imported / "mine"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    chosen = {"reference": str(folder), "base_model": "lab/model", "episodes": 3}
    tab, file = build(context), tmp_path / "saved.json"
    file.write_text(tab.save_config(**{**context.default_values(), **chosen})["text"], encoding="utf-8")
    loaded = tab.load_config(str(file))
    assert "note-good" in loaded[0] and chosen.items() <= dict(zip(tab.fields, loaded[1:-2], strict=True)).items()
    started = []
    monkeypatch.setattr(context.manager, "start", lambda values, owner: started.append(values) or Ticket("run", "token"))
    Endpoints(context).start(chosen)
    assert chosen.items() <= started[0].items()
    with pytest.raises(gr.Error, match="may not set reference"):
        Endpoints(context).start({"reference": str(folder.parent)})
