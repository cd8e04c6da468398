"""The queue, tokens, limits, executors, the device lease, and two servers on one folder."""

import dataclasses
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs import RunStore, new_owner
from backend.runs.status import StatusWriter
from backend.training.executors import settle
from backend.training.lease import DeviceLease
from backend.training.manager import Manager
from tests.training.fake_learner import SMALL, fake_build
from tests.training.steering import state, wait_for

ROOT = Path(__file__).resolve().parents[2]
LONG = {**SMALL, "episodes": 3000, "probe_every": 0, "sample_every": 5000, "executor": "thread"}


def test_start_returns_at_once_and_the_run_completes(store):
    returned = threading.Event()

    def build(config, say):
        assert returned.wait(60), "Start waits for the model"
        return fake_build()(config, say)

    manager = Manager(store, build=build)
    run_id, token = manager.start({**SMALL, "executor": "thread"})
    returned.set()
    assert len(token) > 20 and manager.wait_until_idle(150)
    assert (state(manager, run_id), manager.status(run_id)["episode"], manager.status(run_id)["executor"]) == ("completed", 12, "thread")
    assert manager.shutdown(150)


def test_a_second_start_queues_with_its_place_and_a_way_out(manager):
    first, one = manager.start(LONG)
    second, two = manager.start(LONG)
    third, three = manager.start({**LONG, "episodes": 2})
    wait_for(lambda: state(manager, first) == "running")
    assert [(e.run_id, e.place) for e in manager.queue()] == [(first, 0), (second, 1), (third, 2)]
    assert "behind run " + first in manager.status(second)["waiting"] and state(manager, second) == "queued"
    manager.stop(second, two)
    assert state(manager, second) == "stopped" and manager.status(third)["place"] == 1
    manager.stop(first, one)
    assert manager.wait_until_idle(150)
    assert (state(manager, first), state(manager, third)) == ("stopped", "completed")
    with pytest.raises(InputError, match="is completed"):
        manager.resume(third, three)


def test_only_the_owner_steers(manager):
    run_id, token = manager.start(LONG)
    wait_for(lambda: state(manager, run_id) == "running")
    for foreign in (None, "", "x" * 32, new_owner()):
        assert not manager.may_steer(run_id, foreign)
        for act in (manager.stop, manager.pause, manager.resume, manager.save_now, manager.sample_now, manager.force_stop, manager.delete):
            with pytest.raises(InputError, match="belongs to another visitor"):
                act(run_id, foreign)
        with pytest.raises(InputError, match="belongs to another visitor"):
            manager.change(run_id, "learning_rate", 1e-4, foreign)
    assert state(manager, run_id) == "running"
    manager.pause(run_id, token)
    wait_for(lambda: state(manager, run_id) == "paused")
    assert manager.resume(run_id, token) == "going on"
    wait_for(lambda: state(manager, run_id) == "running")
    with pytest.raises(InputError, match="guidance_scale"):
        manager.change(run_id, "guidance_scale", 500, token)
    manager.change(run_id, "guidance_scale", 5, token)
    manager.stop(run_id, token)
    assert manager.wait_until_idle(150)
    with pytest.raises(InputError, match="is stopped"):
        manager.pause(run_id, token)
    manager.delete(run_id, token)
    with pytest.raises(InputError, match="unknown run"):
        manager.status(run_id)


def stopped_midway(manager):
    """A run that was stopped after some episodes: its id, its token, its last episode."""
    run_id, token = manager.start({**LONG, "save_every": 2})
    wait_for(lambda: manager.status(run_id)["episode"] >= 3)
    manager.stop(run_id, token)
    assert manager.wait_until_idle(150)
    return run_id, token, manager.status(run_id)["episode"]


def test_the_owner_survives_a_restart_of_the_server_and_resumes(manager, store):
    run_id, token, at = stopped_midway(manager)
    again = Manager(RunStore(store.root), build=fake_build(step_seconds=0.001), require_token=True)
    with pytest.raises(InputError, match="another visitor"):
        again.resume(run_id, "foreign")
    again.resume(run_id, token)
    wait_for(lambda: again.status(run_id)["episode"] > at)
    again.stop(run_id, token)
    assert again.wait_until_idle(150) and again.shutdown(150)


def test_a_run_whose_device_is_not_here_keeps_its_state_when_it_is_resumed(store):
    run = store.create(TrainConfig(device="cuda:99"))
    settle(run, "stopped", "stopped after 3 episodes", error="")
    before = run.status()
    with pytest.raises(InputError, match="cuda:99.*choose auto or cpu") as refused:
        Manager(store).resume(run.id)
    assert refused.value.field == "device" and run.status() == before


def test_a_new_run_needs_test_prompts_of_its_own_and_an_old_one_without_goes_on(store, monkeypatch):
    settings, manager, queued = TrainConfig(test_prompts=TrainConfig().train_prompts), Manager(store), []
    monkeypatch.setattr(manager, "_enqueue", lambda run: queued.append(run.id))
    with pytest.raises(InputError, match="holds nothing but prompts of train_prompts") as refused:
        manager.start({"test_prompts": settings.test_prompts})
    assert refused.value.field == "test_prompts" and not store.root.exists()
    run = store.create(settings)
    settle(run, "stopped", "stopped after 3 episodes", error="")
    assert "goes on from" in manager.resume(run.id) and queued == [run.id]


def test_settings_are_refused_before_anything_is_written(store, tmp_path):
    manager = Manager(store)
    (tmp_path / "empty.txt").write_text("")
    for values, field in [({"mode": "NOPE"}, "mode"), ({"episodes": 0}, "episodes"), ({"learning_rate": float("nan")}, "learning_rate"), ({"nope": 1}, "nope"),
                          ({"train_prompts": str(tmp_path / "empty.txt")}, "train_prompts"), ({"base_model": str(tmp_path)}, "base_model")]:  # fmt: skip
        with pytest.raises(InputError) as refused:
            manager.start(values)
        assert refused.value.field == field
    assert not store.root.exists()


def test_a_clone_has_the_settings_and_its_changes(manager, store):
    run_id, _ = manager.start({**SMALL, "executor": "thread", "note": "first"})
    twin, _ = manager.clone(run_id, {"seed": 7})
    assert manager.wait_until_idle(150)
    assert store.get(twin).config == store.get(run_id).config.model_copy(update={"seed": 7})


def test_generate_gets_the_device_between_two_episodes(manager):
    run_id, token = manager.start(LONG)
    wait_for(lambda: manager.status(run_id)["episode"] >= 1)
    with manager.device("generate", 150):
        at = manager.status(run_id)["episode"]
        time.sleep(0.2)
        assert manager.status(run_id)["episode"] == at
        with pytest.raises(InputError, match="busy with generate"), manager.device("evaluate", 0.05):
            pass
    wait_for(lambda: manager.status(run_id)["episode"] > at)
    manager.stop(run_id, token)


def test_the_lease_is_fair_and_names_its_holder():
    lease, order = DeviceLease(), []

    def user(name):
        with lease.held(name):
            order.append(name)

    with lease.held("trainer"):
        threads = []
        for name in "abc":
            threads.append(threading.Thread(target=user, args=(name,)))
            threads[-1].start()
            wait_for(lambda: lease.queue_length == len(threads))  # noqa: B023
        assert lease.holder == "trainer"
        lease.let_others()
        order.append("trainer again")
    for thread in threads:
        thread.join(5)
    assert order[0] == "a" and set(order) == {"a", "b", "c", "trainer again"} and lease.holder == ""


def test_a_thread_cannot_be_cut_off_and_says_so(manager):
    run_id, token = manager.start(LONG)
    wait_for(lambda: state(manager, run_id) == "running")
    assert "waiting for the device call" in manager.force_stop(run_id, token)
    assert manager.wait_until_idle(150) and state(manager, run_id) == "stopped"


def test_a_device_that_is_not_here_is_refused_before_there_is_a_run(store):
    with pytest.raises(InputError, match="device 'cuda:99'"):
        Manager(store).start({**SMALL, "device": "cuda:99"})
    assert store.list() == []


def test_a_failing_run_leaves_the_worker_alive(store):
    def broken(config, say):
        raise ValueError("no such thing")

    manager = Manager(store, build=broken)
    run_id, _ = manager.start({**SMALL, "executor": "thread"})
    other, _ = manager.start({**SMALL, "executor": "thread"})
    assert manager.wait_until_idle(150)
    assert [state(manager, r) for r in (run_id, other)] == ["failed", "failed"] and "no such thing" in manager.status(run_id)["error"]
    assert manager.shutdown(150)


def test_a_run_deleted_while_it_waits_does_not_stop_the_queue(manager, store):
    first, token = manager.start(LONG)
    second, _ = manager.start(LONG)
    third, _ = manager.start({**SMALL, "executor": "thread"})
    wait_for(lambda: manager.active() == first)
    store.get(second).config_path.unlink()
    manager.stop(first, token)
    assert manager.wait_until_idle(150) and state(manager, third) == "completed"


def test_importing_the_manager_imports_no_torch():
    code = "import sys, backend.training.manager, backend.training.cost; sys.exit(bool({'torch', 'diffusers', 'transformers', 'peft', 'gradio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("moment", ["before the trainer is imported", "before it says that it starts"])
def test_a_stop_that_meets_a_run_just_leaving_the_queue_is_obeyed(manager, monkeypatch, moment):
    from backend.training import trainer
    from backend.training.executors import ThreadExecutor

    here, go_on = threading.Event(), threading.Event()

    def held(original):
        def wait(*args, **keywords):
            here.set()
            assert go_on.wait(60)
            return original(*args, **keywords)

        return wait

    owner, name = (ThreadExecutor, "execute") if moment.startswith("before the trainer") else (trainer, "fresh_status")
    monkeypatch.setattr(owner, name, held(getattr(owner, name)))
    run_id, token = manager.start(LONG)
    assert here.wait(60) and state(manager, run_id) == "queued" and manager.active() == run_id
    with pytest.raises(InputError, match="another visitor"):
        manager.stop(run_id, "foreign")
    assert manager.stop(run_id, token)
    go_on.set()
    assert manager.wait_until_idle(60)
    assert state(manager, run_id) == "stopped" and manager.status(run_id)["episode"] == 0


def test_what_a_trainer_in_a_long_call_has_not_read_yet_is_told_and_a_pause_can_be_withdrawn(store):
    loading, go_on = threading.Event(), threading.Event()

    def build(config, say):
        loading.set()
        assert go_on.wait(60)
        return fake_build(step_seconds=0.001)(config, say)

    manager = Manager(store, build=build)
    run_id, token = manager.start(LONG)
    assert loading.wait(60) and manager.status(run_id)["requested"] == ""
    manager.pause(run_id, token)
    assert manager.status(run_id)["requested"] == "pause"
    assert manager.resume(run_id, token) == "going on" and manager.status(run_id)["requested"] == ""
    go_on.set()
    wait_for(lambda: manager.status(run_id)["episode"] >= 2)
    manager.pause(run_id, token)
    wait_for(lambda: state(manager, run_id) == "paused")
    assert manager.status(run_id)["requested"] == "", "it has been obeyed"
    manager.stop(run_id, token)
    assert manager.wait_until_idle(60) and manager.status(run_id)["requested"] == ""
    assert manager.shutdown(60)


def test_an_unzipped_run_resumes_saves_and_is_steered(manager, store, tmp_path):
    run_id, _, _ = stopped_midway(manager)
    archive = store.zip(run_id, tmp_path, checkpoints=False)
    other = RunStore(tmp_path / "elsewhere")
    shutil.unpack_archive(archive, other.root)
    again = Manager(other, build=fake_build(step_seconds=0.001))
    run = other.get(run_id)
    assert not run.control_dir.exists() and not run.checkpoints_dir.exists()
    assert run.request("stop") and "were dropped" in again.resume(run_id)
    wait_for(lambda: state(again, run_id) == "running")
    again.pause(run_id)
    wait_for(lambda: state(again, run_id) == "paused")
    again.stop(run_id)
    assert again.wait_until_idle(60) and again.shutdown(60)
    assert run.checkpoints()[-1].episode == run.status().episode and run.status().error == ""


def test_a_run_killed_while_it_stopped_is_not_shown_as_stopping(manager, store):
    run_id, token, _ = stopped_midway(manager)
    run = store.get(run_id)
    StatusWriter(run.status_path, dataclasses.replace(run.status(), state="stopping", requested="stop", pid=2**22 + 1)).update()
    assert state(manager, run_id) == "interrupted" and manager.status(run_id)["requested"] == ""


def test_a_stop_for_the_dead_process_does_not_stop_the_one_that_takes_over(manager, store):
    run_id, token, at = stopped_midway(manager)
    store.get(run_id).request("stop")
    assert "1 requests left for the earlier process were dropped" in manager.resume(run_id, token)
    wait_for(lambda: manager.status(run_id)["episode"] > at)
    manager.stop(run_id, token)
