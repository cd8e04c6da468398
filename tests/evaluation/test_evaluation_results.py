"""What an evaluation leaves behind: nothing half, and nothing better lost unasked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backend.config import TrainConfig
from backend.evaluation import results
from backend.runs import Run, RunStore


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path / "runs").create(TrainConfig())


def write(run: Run, shade: int, images: int = 4) -> None:
    """Results of images of one shade."""
    pictures = np.full((images, 16, 16, 3), shade, np.uint8)
    near = np.zeros(images), np.zeros(images, int)
    about = {"images": images, "checkpoint": "episode_000003", "gap_closed": 0.5, "table": [], "notes": []}
    results.write_results(run, about, (pictures, pictures), (["craters"] * images, list(range(images))), {"base": np.full((images, 2), shade)}, near)


def contents(run: Run) -> dict[str, bytes]:
    return {p.relative_to(run.path).as_posix(): p.read_bytes() for p in run.path.rglob("*") if "evaluation" in p.as_posix() and p.is_file()}


@pytest.mark.parametrize("torn", ["write_pairs", "picture", "write_json"])
def test_a_disk_that_refuses_leaves_the_standing_evaluation_whole(run: Run, monkeypatch: pytest.MonkeyPatch, torn: str):
    write(run, 10)
    before = contents(run)
    assert {"evaluation.json", "evaluation.png", "evaluation/features.npz"} <= set(before)

    def full(*others: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, torn, full)
    with pytest.raises(OSError, match="No space"):
        write(run, 200)
    assert contents(run) == before
    monkeypatch.undo()
    write(run, 200)
    assert set(contents(run)) == set(before) and contents(run) != before


def test_what_a_new_evaluation_would_take_away_is_said(run: Run):
    assert results.lost_by(run, "episode_000003", 4) == ""
    write(run, 10, images=8)
    assert results.lost_by(run, "episode_000003", 8) == "" == results.lost_by(run, "episode_000003", 9)
    assert "episode_000003 with 8 images and its gap closed of 50% would be lost to one of episode_000003 with 7" in results.lost_by(run, "episode_000003", 7)
    assert "to one of episode_000006 with 1,024" in results.lost_by(run, "episode_000006", 1024)
    run.evaluation_path.write_text(json.dumps({"images": 8, "checkpoint": "episode_000003", "gap_closed": None}))
    assert "8 images would be lost" in results.lost_by(run, "episode_000003", 4)
