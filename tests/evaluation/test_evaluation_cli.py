"""The commands after training, called as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli.evaluate import app
from backend.config import METRICS, TrainConfig
from backend.errors import InputError
from backend.evaluation.generate import generate_images
from backend.runs import TABLES, RunStore
from backend.runs.tables import TableWriter


@pytest.fixture
def two_runs(runs_dir: Path) -> list[str]:
    """Ids of two runs with a rising and a flat curve."""
    ids = []
    for slope, changes in ((0.01, {}), (0.0, {"learning_rate": 1e-5, "note": "[red]x[/red]"})):
        run = RunStore().create(TrainConfig(**changes))
        TableWriter(run.logs_dir / "policy_updates.csv", TABLES["policy_updates"]).append(
            {"update": i, "episode": i, "batch_score": slope * i, "base_level": 0.0, "actor_loss": 0.1 * i} for i in range(40)
        )
        ids.append(run.id)
    return ids


def call(*words: str) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.exception
    return result.output


def test_generate_writes_the_images_that_the_function_draws(tiny_pipeline, tmp_path):
    call("generate", "--prompt", "aerial view", "--base-model", str(tiny_pipeline), "--steps", "3", "--seed", "5", "--count", "2", "--out", str(tmp_path))
    drawn = generate_images(["aerial view"], [5, 6], config=TrainConfig(base_model=str(tiny_pipeline)), steps=3)
    assert (np.asarray(Image.open(tmp_path / "base_6.png")) == drawn[1]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--prompt", "  "], "prompt is empty"),
        (["generate", "--prompt", "x", "--base-model", "nowhere/at/all"], "no such folder"),
        (["evaluate", "../etc"], "id"),
        (["report", "latest"], "no run"),
        (["compare", "a"], "2 to 6"),
        (["generate", "--prompt", "x", "--device", "foo"], "device 'foo': choose auto, cpu, cuda"),
        (["generate", "--prompt", "x", "--device", "meta"], "device 'meta': choose auto, cpu, cuda"),
    ],
)
def test_bad_input_is_one_sentence(runs_dir, words, message):
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("renders", ["-5", "0", "3"])
def test_too_few_held_out_renders_are_refused_before_anything_is_drawn(two_runs, renders):
    result = CliRunner().invoke(app, ["evaluate", two_runs[0], "--real-images", renders])
    assert isinstance(result.exception, InputError) and f"{renders} held-out renders" in str(result.exception) and "at least 4" in str(result.exception)


def test_a_guidance_that_is_none_is_refused(two_runs):
    result = CliRunner().invoke(app, ["evaluate", two_runs[0], "--guidance", "500"])
    assert result.exit_code == 2 and "less than or equal to 50" in result.output


@pytest.mark.parametrize(
    ("command", "message"),
    [(["evaluate"], "no checkpoint"), (["generate", "--prompt", "x", "--run"], "no checkpoint"), (["compare", "latest"], ""), (["plot"], ""), (["report"], "")],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_a_run_with_a_plugin_is_read_where_the_plugin_is_named(runs_dir, tmp_path, monkeypatch, command, message):
    plugin = tmp_path / f"late_{command[0]}.py"
    plugin.write_text("from backend.config import METRICS\nMETRICS.register('LATE', 'Comes with a file.')(object)\n")
    monkeypatch.setenv("CRATER_PLUGINS", "")
    METRICS.register("LATE", "Comes with a file.")(object)
    run = RunStore().create(TrainConfig(metric="LATE"))
    METRICS.remove("LATE")
    try:
        result = CliRunner().invoke(app, [*command, run.id, "--plugin", str(plugin)])
        assert METRICS.get("LATE") and (message in str(result.exception) if message else result.exit_code == 0), result.output
    finally:
        METRICS.remove("LATE")


def test_compare_prints_and_writes_both_runs(two_runs, tmp_path):
    text = call("compare", *two_runs, "--out", str(tmp_path / "c.html"))
    assert "Learning rate" in text
    page = (tmp_path / "c.html").read_text()
    assert all(name in page for name in two_runs)


def test_plot_takes_the_newest_run_and_writes_figures(two_runs, tmp_path):
    text = call("plot", "--png", "--out", str(tmp_path))
    assert "base level" in text
    figure = json.loads((tmp_path / "rewards.json").read_text())
    assert figure["data"][0]["y"][-1] in (0.0, pytest.approx(0.39))
    assert np.asarray(Image.open(tmp_path / "losses.png").convert("L")).std() > 5
    assert (tmp_path / "plots.html").stat().st_size > 1_000_000


def test_report_is_written_to_the_run(two_runs):
    output = call("report", two_runs[0]).replace("\n", "")
    assert "report.html" in output
    assert two_runs[0] in (RunStore().get(two_runs[0]).plots_dir / "report.md").read_text().replace("\\", "")
