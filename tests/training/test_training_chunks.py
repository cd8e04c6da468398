"""Training in chunks of a lent GPU: as one run, only by its owner, with no thread of the server's own."""

import sys
import threading
import time
from functools import partial
from types import ModuleType

import pytest

from backend.errors import InputError
from backend.runs import RunStore
from backend.runs.files import write_json
from backend.training import chunks
from backend.training.chunks import CHUNK_SECONDS, GRACE_SECONDS, train_chunk
from backend.training.limits import Limits
from backend.training.manager import Manager
from backend.training.trainer import train
from components.context import PageContext, Settings
from tests.training.fake_learner import SMALL, fake_build, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import wait_for


@pytest.fixture
def spaces(monkeypatch):
    """The package `spaces` as a ZeroGPU Space has it: a lent function must be back within its time."""
    module = ModuleType("spaces")
    module.durations = []

    def gpu(duration):
        module.durations.append(duration)

        def lend(function):
            def call(*args, **keywords):
                began = time.monotonic()
                answer = function(*args, **keywords)
                assert time.monotonic() - began < duration, "the GPU was taken back"
                return answer

            return call

        return lend

    module.GPU = gpu
    monkeypatch.setitem(sys.modules, "spaces", module)
    return module


def chunked(store, seconds, grace=5.0, step_seconds=0.01, **keywords):
    """A manager whose GPU is lent for so many seconds at a time."""
    work = partial(train_chunk, seconds=seconds, grace=grace, build=fake_build(step_seconds=step_seconds))
    return Manager(store, build=fake_build(), chunk=chunks.lend_gpu(work), **keywords)


def test_chunks_are_one_run_to_the_bit(spaces, tmp_path):
    store = RunStore(tmp_path / "runs")
    manager = chunked(store, seconds=0.5, require_token=True)
    threads = threading.active_count()
    run_id, token = manager.start(SMALL)
    seen, turns = [], 0
    assert manager.status(run_id)["effective_state"] == "queued"
    with pytest.raises(InputError, match="another visitor"):
        manager.train_chunk(run_id, "foreign")
    while manager.status(run_id)["effective_state"] != "completed":
        turns += 1
        assert turns < 20
        if turns > 1:
            assert "queued" in manager.resume(run_id, token)
        sentence = manager.train_chunk(run_id, token)
        seen.append(manager.status(run_id)["episode"])
        assert threading.active_count() == threads, "a thread of the server's own trains"
        if seen[-1] < 12:
            assert "press Continue" in sentence and manager.status(run_id)["message"] == sentence
    assert turns >= 2 and seen == sorted(set(seen)), "every chunk must get further"
    config = small_config()
    whole = store.create(config)
    train(config, whole, build=fake_build())
    assert fingerprint(store.get(run_id)) == fingerprint(whole)
    assert manager.train_chunk(run_id, token) == "", "a completed run has no further chunk"


def test_an_episode_that_fits_no_chunk_says_what_to_change(spaces, tmp_path):
    manager = chunked(RunStore(tmp_path / "runs"), seconds=0.5, grace=30.0)
    run_id, token = manager.start({**SMALL, "episodes": 3000})
    assert "press Continue" in manager.train_chunk(run_id, token)
    slow = chunked(manager.store, seconds=0.1, grace=0.2, step_seconds=0.5)
    at = slow.status(run_id)["episode"]
    assert at >= 1
    slow.resume(run_id, token)
    assert "no episode fits into 0 s" in slow.train_chunk(run_id, token)
    assert slow.status(run_id)["episode"] == at and slow.status(run_id)["effective_state"] == "stopped"


def test_stop_reaches_a_chunk_and_a_run_that_waits_for_one(spaces, tmp_path):
    manager = chunked(RunStore(tmp_path / "runs"), seconds=60)
    run_id, token = manager.start({**SMALL, "episodes": 3000})
    worker = threading.Thread(target=manager.train_chunk, args=(run_id, token))
    worker.start()
    end = time.monotonic() + 60
    while manager.status(run_id)["effective_state"] != "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    with pytest.raises(InputError, match="busy with run"), manager.device("generate", 0.05):
        pass
    manager.stop(run_id, token)
    worker.join(60)
    assert manager.status(run_id)["effective_state"] == "stopped" and "Continue" not in manager.status(run_id)["message"]
    other, owner = manager.start(SMALL)
    assert manager.stop(other, owner) == "" and manager.status(other)["effective_state"] == "stopped"
    assert manager.train_chunk(other, owner) == ""


def test_runs_that_wait_for_a_chunk_take_a_place_until_nobody_comes_back_for_them(spaces, tmp_path):
    manager = chunked(RunStore(tmp_path / "runs"), seconds=60, limits=Limits(max_queue=2, runs_per_owner=1))
    first, token = manager.start(SMALL, "mine")
    with pytest.raises(InputError, match="you have 1 runs"):
        manager.start(SMALL, "mine")
    second, _ = manager.start(SMALL, "another")
    with pytest.raises(InputError, match="2 runs wait already"):
        manager.start(SMALL)
    manager.stop(first, token)
    manager.start(SMALL, "mine")
    with pytest.raises(InputError, match="2 runs wait already"):
        manager.resume(first, token)
    run = manager.store.get(second)
    write_json(run.status_path, {**run.status().to_dict(), "updated_at": time.time() - 2 * chunks.WAITING_SECONDS})
    manager.start(SMALL, "another")


def test_a_run_that_waited_for_the_gpu_in_vain_leaves_its_place_and_can_wait_again(spaces, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.training.turns.PATIENCE_SECONDS", 0.05)
    manager = chunked(RunStore(tmp_path / "runs"), seconds=60)
    run_id, token = manager.start(SMALL)
    with manager.device("generate"), pytest.raises(InputError, match="busy with generate"):
        manager.train_chunk(run_id, token)
    assert manager.status(run_id)["effective_state"] == "stopped" and "press Continue" in manager.status(run_id)["message"]
    manager.resume(run_id, token)
    assert "completed" in manager.train_chunk(run_id, token)


def waiting_for_the_gpu(manager, run_id, token, answers):
    """A visitor's event that waits behind another's use of the GPU."""
    queued = manager.host.lease.queue_length
    worker = threading.Thread(target=lambda: answers.append(manager.train_chunk(run_id, token)))
    worker.start()
    wait_for(lambda: manager.host.lease.queue_length > queued)
    return worker


def test_a_run_that_is_stopped_while_it_waits_for_the_gpu_gets_no_turn(spaces, tmp_path):
    manager, answers = chunked(RunStore(tmp_path / "runs"), seconds=60), []
    run_id, token = manager.start(SMALL)
    with manager.device("generate"):
        first = waiting_for_the_gpu(manager, run_id, token, answers)
        assert manager.stop(run_id, token) == ""
    first.join(60)
    assert answers == [""] and manager.status(run_id)["effective_state"] == "stopped" and manager.status(run_id)["episode"] == 0
    manager.resume(run_id, token)
    with manager.device("generate"):
        workers = [waiting_for_the_gpu(manager, run_id, token, answers)]
        manager.stop(run_id, token)
        manager.resume(run_id, token)
        workers.append(waiting_for_the_gpu(manager, run_id, token, answers))
    for worker in workers:
        worker.join(60)
    assert sorted(answers) == ["", "", "completed after 12 of 12 episodes"], "the event that was stopped trains nothing"


def test_a_refused_loan_leaves_a_run_that_continue_queues_again(spaces, tmp_path):
    manager, refusals = chunked(RunStore(tmp_path / "runs"), seconds=60), [RuntimeError("You have exceeded your GPU quota")]
    lent = manager.turns.chunk

    def lend(root, run_id):
        if refusals:
            raise refusals.pop()
        return lent(root, run_id)

    manager.turns.chunk = lend
    run_id, token = manager.start(SMALL)
    with pytest.raises(RuntimeError, match="quota"):
        manager.train_chunk(run_id, token)
    status = manager.status(run_id)
    assert status["effective_state"] == "stopped" and "the GPU was not lent: press Continue" in status["message"] and manager.host.lease.holder == ""
    assert "queued" in manager.resume(run_id, token)
    assert "completed" in manager.train_chunk(run_id, token)


def test_the_page_of_a_space_lends_the_gpu_for_its_chunks_and_drawings(spaces, tmp_path):
    settings = Settings.from_environment({"SPACE_ID": "me/lab", "SPACES_ZERO_GPU": "true"})
    assert settings.zero_gpu and "40 s at a time" in settings.sentence()
    context = PageContext.create(tmp_path / "runs", settings)
    assert context.manager.chunk is not None and spaces.durations == [CHUNK_SECONDS + GRACE_SECONDS]
    assert context.on_device(int)("7") == 7 and len(spaces.durations) == 2
    plain = PageContext.create(tmp_path / "runs", Settings())
    assert plain.manager.chunk is None and plain.on_device(int) is int
