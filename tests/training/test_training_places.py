"""The caps of a public demo hold for callers without a token, and however many ask at once."""

import threading
import time

import pytest

from backend.errors import InputError
from backend.training.limits import Limits
from backend.training.manager import Manager
from tests.training.fake_learner import SMALL, fake_build
from tests.training.steering import state, wait_for

LONG = {**SMALL, "episodes": 3000, "probe_every": 0, "sample_every": 5000, "executor": "thread"}


@pytest.fixture
def demo(store):
    made = Manager(store, build=fake_build(step_seconds=0.001), require_token=True, limits=Limits(max_queue=8, runs_per_owner=1))
    yield made
    assert made.shutdown(150)


def at_once(work, count=6):
    """What so many threads return or are refused with, that call at the same moment."""
    answers, ready = [], threading.Barrier(count)

    def one():
        ready.wait(30)
        try:
            answers.append(work())
        except InputError as error:
            answers.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def slowly(monkeypatch, owner, name):
    """Between the look and the deed there is time for a rival."""
    original = getattr(owner, name)

    def late(*args, **keywords):
        time.sleep(0.05)
        return original(*args, **keywords)

    monkeypatch.setattr(owner, name, late)


def test_callers_without_a_token_are_one_visitor(demo):
    run_id, token = demo.start(LONG)
    for nobody in (None, ""):
        with pytest.raises(InputError, match="you have 1 runs going or waiting, and this demo allows 1"):
            demo.start(LONG, nobody)
    demo.start({**LONG, "episodes": 2}, "a visitor of its own")
    demo.stop(run_id, token)
    wait_for(lambda: state(demo, run_id) == "stopped")
    other, _ = demo.start(LONG)
    with pytest.raises(InputError, match="you have 1 runs"):
        demo.resume(run_id, token)
    assert state(demo, run_id) == "stopped" and state(demo, other) != "stopped"


@pytest.mark.parametrize("owner", ["one visitor", None])
def test_of_six_simultaneous_starts_of_a_visitor_one_is_accepted(demo, store, monkeypatch, owner):
    slowly(monkeypatch, store, "create")
    answers = at_once(lambda: demo.start(LONG, owner))
    assert sum("you have 1 runs" in str(answer) for answer in answers) == 5 and len(store.runs()) == 1


def test_simultaneous_starts_of_many_do_not_overfill_the_queue(store, monkeypatch):
    manager = Manager(store, build=fake_build(step_seconds=0.001), limits=Limits(max_queue=2))
    manager.start(LONG)
    wait_for(lambda: manager.active() is not None)
    slowly(monkeypatch, store, "create")
    answers = at_once(lambda: manager.start(LONG))
    assert sum("2 runs wait already" in str(answer) for answer in answers) == 4 and len(manager.host.waiting()) == 2
    assert manager.shutdown(150)


def test_of_six_simultaneous_resumes_of_a_visitors_runs_one_is_accepted(demo, store, monkeypatch):
    stopped = []
    for _ in range(2):
        run_id, token = demo.start(LONG, "one visitor")
        demo.stop(run_id, token)
        wait_for(lambda: demo.host.ids() == [])
        stopped.append(run_id)
    turns = iter(stopped * 3)
    slowly(monkeypatch, demo, "_check_inputs")
    answers = at_once(lambda: demo.resume(next(turns), "one visitor"))
    assert sum(answer.startswith("queued") for answer in answers) == 1 and len(demo.host.ids()) == 1, answers
