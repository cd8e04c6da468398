"""Compare, Generate and Reference: who may write into a run's folder, and what the tabs offer each other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from backend.evaluation import generate
from backend.runs import set_owner
from backend.training.manager import FOREIGN
from components import compare_tab, drawing, generate_tab
from components.compare_tab import CompareTab
from components.context import PageContext
from components.form import widget
from components.generate_tab import GenerateTab
from components.page import build
from components.reference_tab import SLIDERS, WORDS, ReferenceTab, draw, scene
from components.runs_views import _row, side_by_side
from tests.components.fake_run import write_fake_run


def compare_of(context: PageContext) -> CompareTab:
    with gr.Blocks():
        tab = CompareTab(context, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        tab.build()
    return tab


def test_only_the_owner_replaces_a_runs_evaluation(guarded: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    run, evaluated = write_fake_run(guarded.store.root, 3), []
    (run.checkpoints_dir / "episode_000003").mkdir()
    set_owner(run, "mine")
    monkeypatch.setattr(compare_tab, "evaluate", lambda *args: evaluated.append(args[1].id))
    tab = compare_of(guarded)
    for visitor in (None, {}, {"owner": "another"}):
        assert FOREIGN in tab.evaluate_now(f"runs/{run.id}", None, 4, "pca", visitor)[-1] and not evaluated
    tab.evaluate_now(f"runs/{run.id}", None, 4, "pca", {"owner": "mine"})
    assert evaluated == [run.id]


def test_only_who_may_steer_a_run_mixes_checkpoints_into_its_folder(guarded: PageContext, context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    run, drawn = write_fake_run(guarded.store.root, 3), []
    set_owner(run, "mine")

    def draw_pair(context: PageContext, run: Any, checkpoint: str | None, *others: Any) -> Any:
        drawn.append(checkpoint)
        raise ValueError("drawn")

    monkeypatch.setattr(compare_tab, "draw_pair", draw_pair)
    monkeypatch.setattr(generate_tab, "draw_pair", draw_pair)
    choice, tab = f"runs/{run.id}", compare_of(guarded)
    recorded = f"demo/{guarded.demo.newest().id}"
    assert "only its owner" in tab.draw_now(choice, "best+last", 4, "pca", {"owner": "another"})[-1]
    assert "only its owner" in tab.draw_now(recorded, "best+last", 4, "pca", {"owner": "mine"})[-1]
    assert "only its owner" in GenerateTab(guarded).generate("craters", choice, "best+last")[-1] and not drawn
    for allowed, checkpoint, visitor in ((guarded, "best+last", {"owner": "mine"}), (guarded, "best", {}), (context, "best+last", {})):
        with pytest.raises(ValueError, match="drawn"):
            compare_of(allowed).draw_now(choice, checkpoint, 4, "pca", visitor)
    assert drawn == ["best+last", "best", "best+last"]


def test_base_and_tuned_are_drawn_with_the_settings_in_force_at_the_checkpoint(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_fake_run(context.store.root, 3)
    for episode, live in ((1, {}), (2, {"guidance_scale": 3.5})):
        folder = run.checkpoints_dir / f"episode_{episode:06d}"
        folder.mkdir()
        (folder / "trainer.json").write_text(json.dumps({"progress": {"live": live}}))
    seen = []

    def draw(backbone: Any, policy: Any, prompts: Any, seeds: Any, steps: int, guidance: float, **others: Any) -> np.ndarray:
        seen.append(guidance)
        return np.zeros((1, 8, 8, 3), np.uint8)

    monkeypatch.setattr(generate, "draw", draw)
    for name in ("open_backbone", "load_policy", "ConstantPolicy"):
        monkeypatch.setattr(generate, name, lambda *args: None)
    for checkpoint in (None, "1"):
        drawing.draw_pair(context, run, checkpoint, ["craters"], [0])
    assert seen == [3.5, 3.5, run.config.guidance_scale, run.config.guidance_scale]


def test_map_and_way_through_the_episodes_follow_the_chosen_projection(context: PageContext) -> None:
    choice, tab = f"runs/{write_fake_run(context.store.root, 20).id}", compare_of(context)
    parts = {method: tab.show(choice, method) for method in ("pca", "tsne")}
    pairs = parts["pca"][tab.outputs.index(tab.pairs)]
    for number, place in enumerate((tab.map, tab.evolution)):
        flat, curled = (parts[method][tab.outputs.index(place)] for method in ("pca", "tsne"))
        assert flat["key"] != curled["key"] and flat["data"][0]["x"] != curled["data"][0]["x"]
        assert "t-SNE" in json.dumps(curled["layout"]) and "t-SNE" not in json.dumps(flat["layout"])
        assert tab.redraw(pairs, "tsne", choice)[number] == curled


def test_an_edited_seed_redraws_the_rendered_crater(context: PageContext) -> None:
    with gr.Blocks() as page:
        tab = ReferenceTab(context, context.references)
        tab.build(widget("reference", context, context.default_values()["reference"]))
    (drawn,) = [event for event in page.fns.values() if event.outputs == tab.scene_outputs]
    assert {(tab.scene_inputs[name]._id, "input") for name in ("view", "seed")} <= set(drawn.targets)


def test_sliders_begin_where_the_words_put_them_and_stay_when_the_tab_is_opened_again(context: PageContext) -> None:
    page = build(context)
    sliders = {component.label: component.value for component in page.blocks.values() if isinstance(component, gr.Slider)}
    *values, _, _ = scene(0, **{name: words[0] for name, words in WORDS.items()})
    assert [sliders[title] for _, _, title, _ in SLIDERS.values()] == values
    opened = [event for event in page.fns.values() if event.fn is draw and any(kind == "select" for _, kind in event.targets)]
    assert len(opened) == 1 and len(opened[0].outputs) == 2, "opening the tab draws what the sliders hold and moves none"


def test_a_rendered_crater_shows_what_its_caption_says() -> None:
    def shown(**words: str) -> tuple[dict[str, float], np.ndarray, str]:
        *values, image, said = scene(3, **words)
        return dict(zip(SLIDERS, values, strict=True)), image, said

    words = {"view": "aerial", "kind": "bowl", "terrain": "smooth plains", "rims": "sharp", "interiors": "layered walls"}
    for name, word, slider, sign in (("kind", "infilled", "infill", 1), ("rims", "worn", "freshness", -1), ("interiors", "shadowed interiors", "sun_elevation", -1)):
        before, plain, _ = shown(**words)
        after, other, said = shown(**{**words, name: word})
        assert sign * (after[slider] - before[slider]) > 0.1 and (plain != other).mean() > 0.3 and (word in said or name == "kind"), name
    values, image, _ = shown(**words)
    assert (draw(3, **words, **values)[0] == image).all()
    assert draw(3, **words, **{**values, "freshness": 0.0})[0].std() < 0.85 * image.std(), "age flattens a crater, whatever the word"


def test_an_imported_set_can_be_chosen_in_the_form_at_once_and_after_a_reload(context: PageContext, tmp_path: Path) -> None:
    generator, files = np.random.default_rng(0), [str(tmp_path / f"{i}.png") for i in range(3)]
    for file in files:
        Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file)
    with gr.Blocks():
        field = widget("reference", context, context.default_values()["reference"])
        tab = ReferenceTab(context, context.references)
        tab.build(field)
    report, shown, offered = tab.import_set(files, None, "mine", 64, False)
    folder = str(context.references.folder("mine"))
    assert "Imported as" in report and shown.value == "mine"
    assert folder in [c[1] for c in offered.choices] and folder not in [c[1] for c in field.choices]
    here, there = tab.offer()
    assert [c[1] for c in here.choices] == ["default", "mine"] and folder in [c[1] for c in there.choices] and tab.lists == [tab.which, field]
    context.check_trusted({"reference": folder})


def test_a_run_of_an_absent_plugin_offers_nothing_to_generate_with(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 3)
    tab = GenerateTab(context)
    assert tab.pick(f"runs/{run.id}")[1] == run.config.guidance_scale
    run.config_path.write_text('{"metric": "HUE"}', encoding="utf-8")
    dropdown, guidance, _ = tab.pick(f"runs/{run.id}")
    assert not dropdown.visible and guidance == gr.skip()


def test_the_table_of_runs_shows_a_gap_with_its_interval_and_guards_and_side_by_side_the_evaluations(context: PageContext) -> None:
    demo = context.demo.newest()
    assert any(re.fullmatch(r"−?\d+ % \(−?\d+ to −?\d+\), \d+ images, guards .*", cell) for cell in _row(context.demo.summary(demo)))
    shown = side_by_side([demo, write_fake_run(context.store.root, 40)])
    assert "Evaluation on test prompts" in shown and "Guards kept" in shown and "Over base" in shown and "Change since start" in shown
    assert "Evaluation" not in side_by_side([write_fake_run(context.store.root, 40)])
