"""The device between processes: runs that a killed server left training, and loans that last as long as the borrower works."""

import os
import subprocess
import sys
import time

import pytest

from backend.runs.files import write_json
from backend.runs.process import create_time, host_name
from backend.runs.status import fresh_status
from backend.training import loans
from backend.training.live import LENT
from backend.training.manager import Manager
from tests.training.fake_learner import SMALL, fake_build, small_config
from tests.training.steering import child, state, wait_for

LONG = {**SMALL, "episodes": 3000, "probe_every": 0, "sample_every": 5000}


@pytest.fixture
def left(store, request):
    """A run that trains in a child whose server is gone, or in another process as the test's parameter says."""
    run = store.create(small_config(episodes=3000, probe_every=0, sample_every=5000, executor="process"))
    process = subprocess.Popen(child(store, getattr(request, "param", "process"), step_seconds=0.002)(run), start_new_session=True)
    try:
        wait_for(lambda: run.status().episode >= 1)
        yield run
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("executor", "left"), [("thread", "process"), ("process", "process"), ("thread", "command line")], indirect=["left"])
def test_a_new_server_starts_no_second_trainer_beside_one_that_was_left(store, left, executor):
    manager = Manager(store, build=fake_build(step_seconds=0.002), command=child(store, step_seconds=0.002))
    run_id, _ = manager.start({**LONG, "executor": executor})
    wait_for(lambda: manager.status(run_id)["waiting"].startswith(f"waiting for run {left.id}"))
    status = manager.status(run_id)
    assert status["effective_state"] == "queued" and f"in process {left.status().pid}" in status["waiting"] and "stop that one" in status["waiting"]
    with manager.device("generate", 150):
        at = left.status().episode
        time.sleep(0.3)
        assert left.status().phase == LENT and left.status().episode == at
    wait_for(lambda: left.status().episode > at)
    assert state(manager, run_id) == "queued"
    manager.stop(left.id)
    wait_for(lambda: manager.status(run_id)["episode"] >= 1)
    assert left.status().state == "stopped" and manager.status(run_id)["waiting"] == ""
    assert manager.shutdown(150)


@pytest.mark.parametrize("how", ["stop", "shutdown"])
def test_a_run_that_waits_for_one_that_was_left_can_be_stopped(store, left, how):
    manager = Manager(store, build=fake_build())
    run_id, _ = manager.start({**LONG, "executor": "thread"})
    wait_for(lambda: manager.status(run_id)["waiting"].startswith(f"waiting for run {left.id}"))
    if how == "stop":
        manager.stop(run_id)
        assert manager.wait_until_idle(60)
    assert manager.shutdown(60)
    assert (state(manager, run_id), manager.status(run_id)["episode"], left.status().state) == ("stopped", 0, "running")


def test_a_loan_lasts_as_long_as_the_borrower_works(store, monkeypatch):
    monkeypatch.setattr(loans, "RENEW_SECONDS", 0.1)
    of_child = child(store, step_seconds=0.002)

    def short_loans(run):
        interpreter, flag, code, run_id = of_child(run)
        return [interpreter, flag, f"from backend.training import control; control.LOAN_SECONDS = 2.0; {code}", run_id]

    manager = Manager(store, command=short_loans)
    run_id, _ = manager.start({**LONG, "executor": "process"})
    wait_for(lambda: manager.status(run_id)["episode"] >= 1)
    with manager.device("generate", 150):
        at = manager.status(run_id)["episode"]
        time.sleep(4)
        assert manager.status(run_id)["episode"] == at and manager.status(run_id)["phase"] == LENT
    wait_for(lambda: manager.status(run_id)["episode"] > at)
    assert manager.shutdown(150)


def test_who_trains_alone_on_this_machine(store):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        run, created = store.create(small_config()), create_time(other.pid)
        mine = {"state": "running", "host": host_name(), "pid": other.pid, "pid_create_time": created}

        def alone(**changes):
            write_json(run.status_path, fresh_status().to_dict() | mine | changes)
            return loans.trains_alone(run)

        assert all(alone(executor=executor) for executor in ("process", "command line", "torchrun"))
        assert not any(alone(executor=executor) for executor in ("", "thread", "chunk", "slurm"))
        assert not alone(executor="command line", host="a-node-of-the-cluster") and not alone(executor="torchrun", state="completed")
        assert not alone(executor="command line", pid=os.getpid(), pid_create_time=create_time(os.getpid())), "what this very process trains has its lease"
    finally:
        other.communicate(b"\n")
    assert not alone(executor="command line"), "its process has ended"
