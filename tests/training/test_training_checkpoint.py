"""Checkpoints: whole or absent, damage named, the newest and the best kept."""

import hashlib
import json
import os

import pytest
import torch

from backend.runs import RunStore
from backend.training import checkpoint
from backend.training.checkpoint import damage, keep_and_prune, newest_sound, read_checkpoint, save_checkpoint, sweep
from tests.training.fake_learner import small_config


@pytest.fixture
def run(tmp_path):
    return RunStore(tmp_path).create(small_config())


def save(run, episode, score=None):
    return save_checkpoint(run, episode, {"n": episode, "w": torch.full((3,), float(episode))}, lambda f: (f / "p.bin").write_bytes(b"policy"), score)


def test_what_was_saved_is_read_back(run):
    path = save(run, 10)
    assert path.name == "episode_000010" and damage(path) == ""
    state = read_checkpoint(path)
    assert state["n"] == 10 and torch.equal(state["w"], torch.full((3,), 10.0))
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["files"]) == {"policy/p.bin", "trainer.json", "trainer.safetensors"}
    assert manifest["files"]["policy/p.bin"] == {"sha256": hashlib.sha256(b"policy").hexdigest(), "bytes": 6}


@pytest.mark.parametrize("file", ["trainer.safetensors", "trainer.json", "policy/p.bin", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(run, file, how):
    save(run, 10)
    bad = save(run, 20) / file
    data = bytearray(bad.read_bytes())
    if how == "remove":
        bad.unlink()
    elif how == "cut":
        bad.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        bad.write_bytes(data)
    found = newest_sound(run)
    if file == "manifest.json" and how == "flip" and found.info.episode == 20:
        assert damage(run.checkpoints_dir / "episode_000020") == ""  # the bit lay in a field that says nothing of the files
        return
    assert found.info.episode == 10 and found.state["n"] == 10
    assert len(found.passed_over) == 1 and "episode_000020" in found.passed_over[0]


def test_a_manifest_cannot_point_outside(run):
    path = save(run, 10)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../config.json"] = {"sha256": "0"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert "lacks" in damage(path)
    assert newest_sound(run) is None


def test_a_full_disk_leaves_the_earlier_ones_and_nothing_half(run, monkeypatch):
    save(run, 10)

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    for place in ("save_file", "write_json", "file_sha256"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, place, refuse)
            with pytest.raises(OSError, match="No space"):
                save(run, 20)
        assert [p.name for p in run.checkpoints_dir.iterdir()] == ["episode_000010"]
    assert newest_sound(run).info.episode == 10


def test_saving_the_same_episode_again_replaces_it(run):
    save(run, 10)
    save_checkpoint(run, 10, {"n": "new"}, lambda f: (f / "p.bin").write_bytes(b""))
    assert newest_sound(run).state == {"n": "new"} and len(run.checkpoints()) == 1


def test_the_newest_and_the_best_stay(run):
    for episode, score in [(0, None), (10, 0.5), (20, 0.9), (30, 0.7), (40, 0.8), (50, 0.6)]:
        save(run, episode, score)
        best = keep_and_prune(run, 2)
    assert best == "episode_000020"
    assert [(c.episode, c.best) for c in run.checkpoints()] == [(20, True), (40, False), (50, False)]
    assert not list(run.checkpoints_dir.glob(".*"))


def test_sweeping_removes_what_a_killed_writer_left_and_saves_what_it_moved_away(run):
    os.rename(save(run, 10), run.checkpoints_dir / ".old-1")
    save(run, 20)
    (run.checkpoints_dir / ".tmp-1" / "policy").mkdir(parents=True)
    sweep(run)
    assert [c.episode for c in run.checkpoints()] == [10, 20] and damage(run.checkpoints_dir / "episode_000010") == ""
    assert not list(run.checkpoints_dir.glob(".*"))


def test_a_checkpoint_after_a_given_episode_can_be_left_out(run):
    save(run, 10)
    save(run, 20)
    assert newest_sound(run, at_most=19).info.episode == 10 and newest_sound(run, at_most=5) is None
    assert newest_sound(run, every=20).info.episode == 20 and newest_sound(run, every=7) is None
