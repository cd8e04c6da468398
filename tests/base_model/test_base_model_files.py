"""What the commands of the base model overwrite, and what they must not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from backend.base_model import judges, publish
from backend.base_model.card import training_cost, training_rows
from backend.base_model.data import SHARD, SIZE, load_dataset, shard_path
from backend.base_model.recipe import MODEL, Recipe, run_recipe
from backend.base_model.target import replace_folder
from backend.cli.app import main
from backend.errors import InputError


def test_too_few_renders_are_refused_before_a_judge_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "renders"
    folder.mkdir()
    np.save(shard_path(folder, 0), np.zeros((SHARD, SIZE, SIZE, 3), np.uint8))
    before = {path: path.read_bytes() for path in judges.FOLDER.iterdir()}
    with pytest.raises(InputError, match=f"holds {SHARD} renders of the {SHARD + 1} .* --images {SHARD + 1}"):
        load_dataset(folder, SHARD + 1)
    with pytest.raises(InputError, match="renders of the 12288"):
        list(judges.fit_regressors(tmp_path, 12_288))
    assert {path: path.read_bytes() for path in judges.FOLDER.iterdir()} == before


def test_the_remedy_for_missing_renders_fills_the_folder_that_lacks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.base_model.data.SHARD", 2)
    monkeypatch.setattr("backend.base_model.data.SIZE", 32)
    work = tmp_path / "other"
    for count in (2, 3):  # none, and too few
        with pytest.raises(InputError) as caught:
            load_dataset(work / "renders", count)
        command = str(caught.value).partition("run `python -m backend ")[2].partition("`")[0]
        with pytest.raises(SystemExit) as stopped:
            main(shlex.split(command))
        assert not stopped.value.code and len(load_dataset(work / "renders", count)[0]) == count


def test_a_log_without_training_leaves_curves_and_cost_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert training_rows(log) == [] and training_cost([]) == {}
    log.write_text(json.dumps({"stage": "render", "images": 5, "seconds": 1.0}) + "\n")
    assert training_rows(log) == []


def test_measuring_another_model_keeps_the_embedded_models_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert publish.places(MODEL) == (publish.RESULT, publish.HISTORY, publish.SHEET)
    own = tmp_path / "mine"
    own.mkdir()
    assert {path.parent for path in publish.places(own)} == {own}
    with pytest.raises(InputError, match="no training.json"):
        publish.measure_and_write(own, tmp_path, 100)
    figures = json.loads(publish.HISTORY.read_text(encoding="utf-8"))[-1]
    (own / "training.json").write_text(json.dumps({"pictures": 12}))
    monkeypatch.setattr(publish, "measure_model", lambda *given: {k: v for k, v in figures.items() if k not in ("version", "machine", "command", "weights_sha256", "judges")})
    monkeypatch.setattr(publish, "rendered_and_generated", lambda folder: dict.fromkeys(("rendered", "generated"), np.zeros((64, SIZE, SIZE, 3), np.uint8)))
    kept = {path: path.read_bytes() for path in (publish.RESULT, publish.HISTORY, publish.SHEET)}
    card = publish.measure_and_write(own, tmp_path / "work", 100).read_text(encoding="utf-8")
    assert {path: path.read_bytes() for path in kept} == kept
    assert card.startswith("# mine") and "never seen a photograph" not in card and "12 pictures" in card and "losses.png" not in card and "Seconds by stage" not in card
    assert (own / "measured.json").is_file() and not (own / "losses.png").exists()


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "model"

    def write(text: str):
        def fill(folder: Path) -> Path:
            folder.mkdir()
            (folder / "weights").write_text(text)
            (folder / "model_index.json").write_text("{}")
            return folder

        return fill

    replace_folder(out, write("first"))
    (out / "README.md").write_text("card")
    (tmp_path / ".model.old").mkdir()  # left by a killed attempt
    (tmp_path / ".model.old" / "weights").write_text("older")
    replace_folder(out, write("second"), ("README.md", "sheet.png"))
    assert (out / "weights").read_text() == "second" and (out / "README.md").read_text() == "card"
    out.rename(tmp_path / ".model.old")  # killed between the two renames
    with pytest.raises(OSError, match="no room"):
        replace_folder(out, lambda folder: (_ for _ in ()).throw(OSError("no room")))
    assert (out / "weights").read_text() == "second" and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "precious").write_text("mine")
    for out in (models, models / "precious", Path(".")):
        with pytest.raises(InputError, match="something else than a pipeline"):
            run_recipe(Recipe(), tmp_path / "work", out)
        with pytest.raises(InputError, match="something else than a pipeline"):
            replace_folder(out, lambda folder: folder)
    assert (models / "precious").read_text() == "mine" and not (tmp_path / "work").exists()


def test_a_training_does_not_overwrite_what_it_starts_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name another folder with --out"):
        run_recipe(Recipe(), tmp_path, MODEL, Path("assets/../assets/models/crater-tiny"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_rendered(device: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["base-model", "train", "--device", device, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")])
    assert device in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_seed_is_that_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    monkeypatch.setattr("backend.base_model.recipe.run_recipe", lambda plan, *folders: plans.append(plan))
    for given in ([], ["--seed", "7"]):
        with pytest.raises(SystemExit, match="0"):
            main(["base-model", "train", "--device", "cpu", "--work", str(tmp_path), *given])
    assert [plan.seed for plan in plans] == [1, 7]
