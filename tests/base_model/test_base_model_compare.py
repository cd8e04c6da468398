"""`base-model compare`: pipelines beside each other on the same captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.base_model import compare as comparison
from backend.base_model.recipe import MODEL
from backend.cli.app import main
from backend.errors import InputError


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "REFERENCE", 64)
    monkeypatch.setattr(comparison, "PCA_DIMS", 12)


@pytest.mark.usefixtures("few")
def test_pictures_after_one_step_are_farther_from_renders_and_from_their_captions() -> None:
    (one,), (ten,) = (list(comparison.compare([MODEL], 24, steps)) for steps in (1, 10))
    assert one["model"] == str(MODEL) and list(one)[1:4] == ["FD Lite0", "FD Lite2", "pattern"]
    assert all(one[name] > ten[name] for name in comparison.NETWORKS)
    assert one["mean"] < ten["mean"]


@pytest.mark.usefixtures("few")
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["base-model", "compare", str(MODEL), "--images", "64", "--steps", "2"])
    head, rule, row = capsys.readouterr().out.strip().splitlines()
    assert not stopped.value.code and head.startswith("| model | FD Lite0 |") and "| rims |" in head
    assert head.count("|") == rule.count("|") == row.count("|") and row.startswith(f"| {MODEL} |")


def test_a_folder_without_a_pipeline_is_named_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "generate", lambda *_, **__: pytest.fail("drew"))
    with pytest.raises(InputError, match=f"{tmp_path} holds no pipeline"):
        list(comparison.compare([MODEL, tmp_path], 64, 2))
