"""Compare and Generate on a run that goes on: what is shown again, which checkpoint is meant, and which evaluation is never lost unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from backend.runs import Run, RunStore
from components import compare_tab, drawing
from components.compare_tab import CompareTab
from components.context import PageContext, Settings
from components.drawing import BEST, NEWEST, RECORDED
from components.generate_tab import GenerateTab
from tests.components.fake_run import write_fake_run, write_sample


def compare_of(context: PageContext) -> CompareTab:
    with gr.Blocks():
        tab = CompareTab(context, gr.State({}), gr.BrowserState({}, storage_key="k", secret="s"))
        tab.build()
    return tab


def save(run: Run, *episodes: int, best: int = 0, live: dict[str, float] | None = None) -> None:
    """Checkpoints of a run, those of other episodes pruned."""
    shutil.rmtree(run.checkpoints_dir)
    for episode in episodes:
        folder = run.checkpoints_dir / f"episode_{episode:06d}"
        folder.mkdir(parents=True)
        (folder / "trainer.json").write_text(json.dumps({"progress": {"live": live or {}}}))
    if best:
        (run.checkpoints_dir / "best.json").write_text(json.dumps({"checkpoint": f"episode_{best:06d}"}))


def judged(run: Run, images: int, checkpoint: str, gap: float | None = 0.42) -> None:
    """An evaluation of so many images."""
    run.evaluation_path.write_text(json.dumps({"images": images, "checkpoint": checkpoint, "gap_closed": gap, "table": []}))


def value(tab: CompareTab, shown: tuple[Any, ...], place: Any) -> Any:
    return shown[tab.outputs.index(place)]


def test_the_tab_follows_the_page_until_a_person_chooses_a_run(context: PageContext) -> None:
    recorded, mine, other = f"demo/{context.demo.newest().id}", write_fake_run(context.store.root, 3), write_fake_run(context.store.root, 4)
    tab = compare_of(context)
    assert tab.enter({"source": "demo", "run": context.demo.newest().id}, None, "").value == recorded
    assert tab.enter({"source": "runs", "run": mine.id}, recorded, "").value == f"runs/{mine.id}"
    picked = tab.choose(recorded, "pca")[0]
    assert tab.enter({"source": "runs", "run": other.id}, recorded, picked).value == recorded
    picked = tab.choose(f"runs/{mine.id}", "pca")[0]
    context.store.delete(mine.id)
    assert tab.enter({"source": "runs", "run": other.id}, f"runs/{mine.id}", picked).value == f"runs/{other.id}"


def test_a_live_run_is_shown_again_where_it_has_gone_on_and_only_there(context: PageContext) -> None:
    run, tab = write_fake_run(context.store.root, 12), compare_of(context)
    save(run, 10)
    choice = f"runs/{run.id}"
    first = tab.show(choice, "pca")
    pairs, seen = value(tab, first, tab.pairs), value(tab, first, tab.seen)
    assert all(part == gr.skip() for part in tab.look_again(choice, "pca", NEWEST, pairs, seen))
    save(run, 50, 60, best=50)
    again = tab.look_again(choice, "pca", "episode_000010", pairs, seen)
    assert value(tab, again, tab.neighbours) == gr.skip() and value(tab, again, tab.checkpoint).value == NEWEST
    assert [name for _, name in value(tab, again, tab.checkpoint).choices] == [NEWEST, BEST, "episode_000060", "episode_000050"]
    write_sample(run, 60, np.random.default_rng(1))
    again = tab.look_again(choice, "pca", BEST, pairs, value(tab, again, tab.seen))
    assert "episode 60" in value(tab, again, tab.neighbours) and value(tab, again, tab.checkpoint).value == BEST and value(tab, again, tab.judged) == gr.skip()
    judged(run, 64, "episode_000060")
    again = tab.look_again(choice, "pca", BEST, pairs, value(tab, again, tab.seen))
    assert "Evaluation of episode_000060" in value(tab, again, tab.evaluation)


def test_pairs_that_were_drawn_stay_where_only_the_run_went_on(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tab = write_fake_run(context.store.root, 12), compare_of(context)
    save(run, 10)
    choice, images = f"runs/{run.id}", np.zeros((2, 64, 64, 3), np.uint8)
    monkeypatch.setattr(compare_tab, "draw_pair", lambda *args: drawing.Drawn(images, images, "episode_000010"))
    filled = tab.draw_now(choice, NEWEST, 2, "pca")
    assert "base and episode_000010" in filled[-1] and "episode_000010: 2 test prompts drawn now" in filled[1]
    seen = value(tab, tab.show(choice, "pca"), tab.seen)
    write_sample(run, 60, np.random.default_rng(1))
    again = tab.look_again(choice, "pca", NEWEST, filled[0], seen)
    assert value(tab, again, tab.pairs) is filled[0] and value(tab, again, tab.answer) == gr.skip() and value(tab, again, tab.evolution) is not None


def test_the_newest_checkpoint_is_the_one_of_the_moment_it_is_drawn(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = write_fake_run(context.store.root, 3), []
    save(run, 10)

    def generate(prompts: Any, seeds: Any, run: Any = None, checkpoint: str | None = None, **others: Any) -> np.ndarray:
        asked.append(checkpoint)
        save(context.store.get(run_id), 20)  # the run goes on
        return np.zeros((1, 8, 8, 3), np.uint8)

    run_id = run.id
    monkeypatch.setattr("backend.evaluation.generate.generate_images", generate)
    assert drawing.draw_pair(context, run, NEWEST, ["craters"], [0]).checkpoint == "episode_000010" and asked == [None, "episode_000010"]
    assert drawing.draw_pair(context, run, NEWEST, ["craters"], [0]).checkpoint == "episode_000020"


def test_a_recorded_run_without_its_policy_says_that_it_cannot_be_drawn_with(context: PageContext, tmp_path: Path) -> None:
    kept = context.demo.newest()
    shutil.copytree(kept.path, tmp_path / "demo" / kept.id, ignore=shutil.ignore_patterns("checkpoints"))
    context.demo = RunStore(tmp_path / "demo")
    choice, tab = f"demo/{kept.id}", compare_of(context)
    shown = tab.show(choice, "pca")
    assert RECORDED in value(tab, shown, tab.answer) and not value(tab, shown, tab.draw).interactive and not value(tab, shown, tab.evaluate).interactive
    assert "24 of the 64 pairs of the run&#x27;s evaluation" in value(tab, shown, tab.neighbours)
    assert RECORDED in tab.draw_now(choice, None, 4, "pca")[-1] and RECORDED in GenerateTab(context).generate("craters", choice)[-1]
    mine = tab.show(f"runs/{write_fake_run(context.store.root, 3).id}", "pca")
    assert value(tab, mine, tab.draw).interactive and value(tab, mine, tab.evaluate).interactive and value(tab, mine, tab.answer) == ""


def test_the_recorded_run_can_be_drawn_with_at_once_and_nothing_is_written_into_it(context: PageContext) -> None:
    run, tab = context.demo.newest(), compare_of(context)
    choice, before = f"demo/{run.id}", {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    shown = tab.show(choice, "pca")
    assert value(tab, shown, tab.draw).interactive and not value(tab, shown, tab.evaluate).interactive
    drawn = drawing.draw_pair(context, run, NEWEST, ["aerial view of bowl mars craters on dune fields"], [3])
    assert drawn.checkpoint == f"episode_{run.config.episodes:06d}"
    assert 1 < np.abs(drawn.base.astype(float) - drawn.tuned).mean() < 60  # another picture, and no noise
    assert "a recorded run" in tab.evaluate_now(choice, None, 64, "pca")[-1] and "mixes several" in tab.draw_now(choice, "best+last", 4, "pca")[-1]
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_better_evaluation_is_never_replaced_unasked(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tab = write_fake_run(context.store.root, 3), compare_of(context)
    save(run, 20, 60)
    made: list[tuple[str | None, int]] = []
    monkeypatch.setattr(compare_tab, "evaluate", lambda context, run, checkpoint, images: made.append((checkpoint, images)))
    choice = f"runs/{run.id}"
    judged(run, 1024, "episode_000060")
    for checkpoint, images in ((NEWEST, 64), ("episode_000020", 1024), ("episode_000020", 2048)):
        _, row, asked, *_, answer = tab.evaluate_now(choice, checkpoint, images, "pca")
        assert row.visible and not made and "1,024 images and its gap closed of 42%" in asked and f"with {images:,}" in asked and "would be lost" in answer
        assert tab.replace_now(choice, checkpoint, images + 1, "pca", None, asked)[1].visible and not made
        row = tab.replace_now(choice, checkpoint, images, "pca", None, asked)[1]
        assert made.pop() == (checkpoint, images) and not row.visible
    for checkpoint, images in ((NEWEST, 1024), ("episode_000060", 2000), ("60", 1024)):
        assert "Evaluated" in tab.evaluate_now(choice, checkpoint, images, "pca")[-1] and made.pop() == (checkpoint, images)


def test_an_evaluation_draws_as_many_images_as_the_runs_own_within_the_servers_cap(context: PageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {images: write_fake_run(context.store.root, 3, eval_images=images) for images in (0, 200, 2000)}
    for run in runs.values():
        save(run, 3)
    monkeypatch.setattr(compare_tab, "evaluate", lambda *args: None)
    for settings, most, usual in (
        (Settings(max_generate=4), None, (64, 200, 2000)),
        (Settings(require_token=True), 1024, (64, 200, 1024)),
        (Settings(public_demo=True), 64, (64,) * 3),
    ):
        tab = compare_of(PageContext.create(context.store.root, settings))
        assert tuple(value(tab, tab.show(f"runs/{run.id}", "pca"), tab.judged) for run in runs.values()) == usual
        choice = f"runs/{runs[0].id}"
        tab.context.manager.require_token = False
        assert "Evaluated" in tab.evaluate_now(choice, None, most or 5000, "pca")[-1]
        for wrong in (3, 4.5, None, *([most + 1] if most else [])):
            assert (f"from 4 to {most}" if most else "at least 4") in tab.evaluate_now(choice, None, wrong, "pca")[-1]


def test_generate_fills_in_the_guidance_in_force_at_the_checkpoint(context: PageContext) -> None:
    run, tab = write_fake_run(context.store.root, 3), GenerateTab(context)
    save(run, 10, 20, live={"guidance_scale": 3.5})
    (run.checkpoints_dir / "episode_000010" / "trainer.json").unlink()
    choice, own = f"runs/{run.id}", run.config.guidance_scale
    field, *guidance = tab.pick(choice)
    assert field.value == NEWEST and guidance == [3.5, 3.5]
    assert tab.guidance_now(choice, "episode_000010") == (own, own) and tab.guidance_now(choice, "best+last") == (own, own)
    assert not (run.path / "mixtures").exists(), "looking at a mixture makes none"
    save(run, 20, 30, live={"guidance_scale": 5.0})
    assert tab.refill(choice, "episode_000010").value == NEWEST and tab.refill(choice, "episode_000020").value == "episode_000020"
    _, checkpoint, latest, filled = tab.enter(choice, "episode_000010", 3.5, 3.5)
    assert checkpoint.value == NEWEST and (latest, filled) == (5.0, 5.0)
    assert tab.enter(choice, NEWEST, 9.0, 3.5)[2] == gr.skip(), "what a person typed stays"
