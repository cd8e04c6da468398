"""Hosts in other processes: a child that trains, servers that are killed, two of them on one folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.errors import InputError
from backend.training.executors import exit_sentence, wants_process
from backend.training.live import LENT
from backend.training.manager import Manager
from tests.training.fake_learner import SMALL, fake_build, small_config
from tests.training.steering import child, state, wait_for

ROOT = Path(__file__).resolve().parents[2]
LONG = {**SMALL, "episodes": 3000, "probe_every": 0, "sample_every": 5000, "executor": "thread"}


def test_a_child_process_trains_lends_the_device_and_is_killed(store):
    manager = Manager(store, command=child(store, step_seconds=0.002))
    run_id, _ = manager.start({**LONG, "executor": "process", "save_every": 1})
    wait_for(lambda: manager.status(run_id)["episode"] >= 2)
    status = manager.status(run_id)
    assert status["pid"] != os.getpid() and status["executor"] == "process" and status["effective_state"] == "running"
    with manager.device("generate", 150):
        at = manager.status(run_id)["episode"]
        time.sleep(0.3)
        assert manager.status(run_id)["episode"] == at
    wait_for(lambda: manager.status(run_id)["episode"] > at)
    assert "was killed" in manager.force_stop(run_id)
    assert manager.wait_until_idle(150)
    assert state(manager, run_id) == "stopped" and "force-stopped" in manager.status(run_id)["message"]
    manager.resume(run_id)
    wait_for(lambda: manager.status(run_id)["effective_state"] == "running" and manager.status(run_id)["episode"] > at)
    assert manager.shutdown(150)
    assert state(manager, run_id) == "stopped"


def test_a_paused_child_lends_the_device_and_the_next_run_waits_for_the_loans_end(store):
    manager = Manager(store, command=child(store, step_seconds=0.002))
    first, _ = manager.start({**LONG, "executor": "process"})
    second, _ = manager.start({**LONG, "executor": "process"})
    wait_for(lambda: state(manager, first) == "running" and manager.status(first)["episode"] >= 1)
    manager.pause(first)
    wait_for(lambda: state(manager, first) == "paused")
    with manager.device("generate", 30):
        assert (state(manager, first), manager.status(first)["phase"]) == ("paused", LENT)
    wait_for(lambda: manager.status(first)["phase"] == "")
    assert state(manager, first) == "paused"
    with manager.device("generate", 30):
        manager.stop(first)
        wait_for(lambda: manager.active() == second)
        time.sleep(0.5)
        assert state(manager, first) == "stopped" and manager.host.active[1].process is None, "the next run trains beside the drawing"
    wait_for(lambda: state(manager, second) == "running")
    assert manager.shutdown(150)


def test_a_child_that_is_shot_leaves_the_manager_alive_with_a_sentence(store):
    manager = Manager(store, command=child(store, step_seconds=0.002))
    run_id, _ = manager.start({**LONG, "executor": "process"})
    wait_for(lambda: manager.status(run_id)["episode"] >= 1)
    os.kill(manager.status(run_id)["pid"], signal.SIGKILL)
    assert manager.wait_until_idle(150)
    assert state(manager, run_id) == "failed" and "lack of memory: try micro_batch" in manager.status(run_id)["error"]
    assert manager.shutdown(150)


@pytest.mark.parametrize("how", ["stop", "shutdown"])
def test_a_child_that_does_not_listen_yet_is_stopped_all_the_same(store, how):
    manager = Manager(store, command=child(store))
    run_id, _ = manager.start({**LONG, "executor": "process"})
    wait_for(lambda: manager.host.active and manager.host.active[1].process is not None)
    assert manager.status(run_id)["effective_state"] == "queued"
    if how == "stop":
        manager.stop(run_id)
        assert manager.wait_until_idle(150)
    assert manager.shutdown(150)
    assert state(manager, run_id) == "stopped" and manager.status(run_id)["episode"] == 0, manager.status(run_id)["error"]


def test_exit_sentences_and_the_choice_of_host(tmp_path):
    config = small_config(prompts_per_group=8, images_per_prompt=2)
    assert "micro_batch 4" in exit_sentence(-9, config)
    assert "SIGSEGV" in exit_sentence(-11, config) and exit_sentence(1, config, "last words") == "last words" and "status 3" in exit_sentence(3, config)
    assert wants_process(small_config(executor="process")) and not wants_process(small_config(executor="thread"))
    assert not wants_process(small_config(base_model=str(tmp_path))) and wants_process(small_config(base_model="owner/model"))


SERVER = """
import sys, time
from backend.runs import RunStore
from backend.training.manager import Manager
from tests.training.fake_learner import fake_build
manager = Manager(RunStore(sys.argv[1]), build=fake_build(step_seconds=0.002))
for sentence in manager.found_at_start: print("FOUND", sentence, flush=True)
if sys.argv[2] == "start":
    print(manager.start(eval(sys.argv[3])).run_id, flush=True)
else:
    try: print(manager.resume(sys.argv[2]), flush=True)
    except Exception as error: print("REFUSED", error, flush=True); sys.exit()
manager.wait_until_idle()
print("IDLE", flush=True)
manager.shutdown()
"""


def server(store, *arguments):
    return subprocess.Popen([sys.executable, "-c", SERVER, str(store.root), *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_killed_server_leaves_an_interrupted_run_and_two_new_ones_do_not_both_take_it(store):
    first = server(store, "start", {**LONG, "save_every": 2})
    run = None
    wait_for(lambda: store.list() and store.list()[0].episode >= 3)
    run = store.get(store.list()[0].id)
    with pytest.raises(InputError, match="is running"):
        Manager(store, build=fake_build()).resume(run.id)
    first.kill()
    first.wait()
    assert store.effective_state(run) == "interrupted" and run.status().state == "running"
    assert "was interrupted after" in Manager(store, build=fake_build()).found_at_start[0]
    rivals = [server(store, run.id) for _ in range(2)]
    wait_for(lambda: sum(rival.poll() is not None for rival in rivals) == 1)  # refused before the other is stopped: a stopped run may be taken
    wait_for(lambda: run.status().attempt >= 3 and run.status().state == "running")
    run.request("stop")
    said = [rival.communicate(timeout=150)[0] for rival in rivals]
    assert sorted("REFUSED" in text for text in said) == [False, True]
    assert run.status().state == "stopped"
    episodes = [int(r["episode"]) for r in run.read_rows("policy_updates")[0]]
    assert episodes == list(range(1, len(episodes) + 1))


def test_a_run_of_another_process_is_seen_and_steered_alike(store):
    process = server(store, "start", LONG)
    manager = Manager(store, build=fake_build())
    wait_for(lambda: store.list() and store.list()[0].episode >= 1)
    run_id = store.list()[0].id
    assert state(manager, run_id) == "running" and not manager.status(run_id)["hosted_here"]
    with pytest.raises(InputError, match="running: stop it before deleting"):
        manager.delete(run_id)
    manager.pause(run_id)
    wait_for(lambda: state(manager, run_id) == "paused")
    assert "another process" in manager.force_stop(run_id)
    process.communicate(timeout=150)
    assert state(manager, run_id) == "stopped"
