"""Runs that the process cannot host, or has lost: they say why, and can be resumed and deleted."""

import pytest

from backend.config import TrainConfig
from backend.errors import InputError
from backend.training import host, trainer
from backend.training.executors import ThreadExecutor
from backend.training.manager import Manager
from tests.training.fake_learner import SMALL, fake_build
from tests.training.steering import state, wait_for

LONG = {**SMALL, "episodes": 3000, "probe_every": 0, "sample_every": 5000, "executor": "thread"}


def refuse(*_, **__):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("what", ["the choice of an executor", "the executor", "the preparation of the folder"])
def test_a_run_that_cannot_be_hosted_fails_with_its_reason_and_can_be_resumed_or_deleted(manager, monkeypatch, what):
    owner, name = {"the choice of an executor": (host, "wants_process"), "the executor": (ThreadExecutor, "execute"), "the preparation of the folder": (trainer, "begin")}[what]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, (lambda run: (_ for _ in ()).throw(ValueError("No space left"))) if name == "begin" else refuse)
        runs = [manager.start({**SMALL, "executor": "thread"}) for _ in range(2)]
        assert manager.wait_until_idle(150)
    for run_id, _ in runs:
        assert state(manager, run_id) == "failed" and "could not be hosted" in manager.status(run_id)["error"] and "No space left" in manager.status(run_id)["error"]
    (first, one), (second, two) = runs
    manager.delete(second, two)
    manager.resume(first, one)
    assert manager.wait_until_idle(150) and state(manager, first) == "completed" and manager.status(first)["waiting"] == ""


def test_a_run_that_this_process_has_lost_can_be_resumed_and_deleted(manager, store):
    lost, other = store.create(TrainConfig(**SMALL)), store.create(TrainConfig(**SMALL))
    manager.require_token = False
    assert store.effective_state(lost) == "queued" and state(manager, lost.id) == "interrupted"
    manager.delete(other.id)
    assert "queued" in manager.resume(lost.id)
    assert manager.wait_until_idle(150) and state(manager, lost.id) == "completed"


def test_a_run_whose_owner_cannot_be_written_is_not_left_behind(manager, store, monkeypatch):
    monkeypatch.setattr("backend.training.manager.set_owner", refuse)
    with pytest.raises(InputError, match="owner of a new run cannot be written.*free space"):
        manager.start(SMALL)
    assert store.runs() == [] and manager.host.ids() == []


def test_a_server_whose_waiting_run_was_deleted_still_shuts_down(store):
    manager = Manager(store, build=fake_build(step_seconds=0.001))
    first, _ = manager.start(LONG)
    second, _ = manager.start(LONG)
    wait_for(lambda: manager.active() == first)
    store.get(second).config_path.unlink()
    assert manager.shutdown(150) and state(manager, first) == "stopped"
