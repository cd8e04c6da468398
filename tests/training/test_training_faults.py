"""Faults injected into a live run: SIGKILL at random moments, full and read-only disks, a deleted folder, a clock set back."""

import csv
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from backend.runs import RunStore
from backend.runs.events import read_events
from backend.training import checkpoint as checkpoint_module
from backend.training import episodes
from backend.training import recorder as recorder_module
from backend.training.checkpoint import damage
from backend.training.manager import Manager
from backend.training.recorder import RunLost
from backend.training.trainer import train
from tests.training.fake_learner import SMALL, fake_build, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import wait_for


def kill_and_resume(store, kills, seed, **values):
    """Train in forked processes that are shot at random moments, at least one of them alive; returns the finished run."""
    config = small_config(**values)
    run, rng, met = store.create(config), random.Random(seed), 0
    context = multiprocessing.get_context("fork")
    for _ in range(kills):
        process = context.Process(target=train, args=(config, run), kwargs={"build": fake_build(step_seconds=0.001)}, daemon=True)
        attempt = run.status().attempt
        process.start()
        wait_for(lambda: run.status().attempt > attempt or not process.is_alive())  # noqa: B023
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.join()
        met += process.exitcode == -signal.SIGKILL
        assert store.effective_state(run) in ("interrupted", "completed")
        assert all(damage(info.path) == "" for info in run.checkpoints())
        if run.status().state == "completed":
            break
    else:
        assert train(config, run, build=fake_build()) == "completed"
    assert met, "no process lived to be killed"
    return config, run


def whole_run(store, config):
    run = store.create(config)
    train(config, run, build=fake_build())
    return run


def test_killed_at_random_moments_it_ends_as_if_never_killed(store):
    config, run = kill_and_resume(store, 3, seed=1, episodes=20, save_every=3)
    assert fingerprint(run) == fingerprint(whole_run(store, config))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_twenty_kills(store, seed):
    config, run = kill_and_resume(store, 20, seed=seed, episodes=150, save_every=2)
    assert fingerprint(run) == fingerprint(whole_run(store, config))


def test_half_written_lines_are_cut_on_resume(store):
    config = small_config()
    whole = whole_run(store, config)
    config_short = small_config(episodes=9)
    run = store.create(config_short)
    train(config_short, run, build=fake_build())
    for path in run.logs_dir.glob("*.csv"):
        with open(path, "ab") as file:
            file.write(b"10,3,0.12")
    for folder in (run.logs_dir, run.images_dir):
        (folder / ".tmp-0123456789abcdef").write_bytes(b'{"episode": 9')  # killed within an atomic write
    with open(run.events_path, "ab") as file:
        file.write(b'{"seq": 99, "kind": "sta')
    train(config, run, build=fake_build())
    mine, theirs = fingerprint(run), fingerprint(whole)
    assert mine["policy_updates.csv"] == theirs["policy_updates.csv"] and mine["training_log.csv"] == theirs["training_log.csv"]
    assert [e["seq"] for e in run.events()] == list(range(1, len(run.events()) + 1))
    assert not [*run.path.rglob(".tmp-*")]


def test_a_full_disk_while_saving_keeps_the_earlier_checkpoint_and_trains_on(store, monkeypatch):
    real, calls = episodes.save_checkpoint, []

    def full(run, number, *rest):
        calls.append(number)
        if number == 8:
            raise OSError(28, "No space left on device")
        return real(run, number, *rest)

    monkeypatch.setattr(episodes, "save_checkpoint", full)
    config = small_config()
    run = store.create(config)
    assert train(config, run, build=fake_build()) == "completed"
    assert calls == [0, 4, 8, 12] and [c.episode for c in run.checkpoints()] == [0, 4, 12]
    assert any("No space left" in e["message"] and "episode_000004 is kept" in e["message"] for e in run.events() if e["kind"] == "alert")


def test_a_disk_full_for_a_while_loses_no_row(store, monkeypatch):
    config, full, real = small_config(), [False], os.write
    whole = whole_run(store, config)
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr("backend.runs.tables.os.write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "No space left on device")) if full[0] else real(fd, data))
    run, heard = store.create(config), []

    def observe(kind, content):
        if kind == "episode" and content["episode"] == 4:
            full[0] = True
        if kind == "trouble":
            heard.append(content["message"])
            full[0] = len(heard) < 5
        if kind == "episode" and content["episode"] == 6:
            assert run.status().message == "", "what the run waited for is over"

    assert train(config, run, build=fake_build(), observe=observe) == "completed"
    assert len(heard) == 5 and "No space left" in heard[0]
    assert fingerprint(run) == fingerprint(whole)
    assert any("accepts again" in e["message"] for e in read_events(run.events_path) if e["kind"] == "alert")


def test_a_disk_that_stays_full_ends_the_run_with_a_sentence(store, monkeypatch):
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(recorder_module, "PATIENCE_SECONDS", 0.05)
    config = small_config()
    run, real = store.create(config), os.write

    def observe(kind, content):
        if kind == "episode" and content["episode"] == 6:
            monkeypatch.setattr("backend.runs.tables.os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(RunLost, match="No space left"):
        train(config, run, build=fake_build(), observe=observe)
    assert run.status().state == "failed" and "free space and press Resume" in run.status().error
    monkeypatch.setattr("backend.runs.tables.os.write", real)
    assert train(config, run, build=fake_build()) == "completed"
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(whole_run(store, config))["policy_updates.csv"]


def test_a_disk_that_is_full_amid_the_tensors_is_told_and_waited_for(store, monkeypatch):
    """safetensors tells of it by an error of its own, which is no OSError."""
    run, calls = store.create(small_config()), []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    assert train(run.config, run, build=fake_build()) == "completed"
    told = [event["message"] for event in run.events() if event["kind"] == "alert"]
    assert any("could not be written (No space left on device)" in message for message in told) and len(calls) > 2
    assert all(damage(info.path) == "" for info in run.checkpoints()) and not list(run.checkpoints_dir.glob(".tmp-*"))


def no_space_for(monkeypatch, episode, times):
    """A disk on which the checkpoint after `episode` finds no space for so many times; returns the moments at which it was tried."""
    real, tried = episodes.save_checkpoint, []

    def save(run, number, *rest):
        if number == episode:
            tried.append(time.monotonic())
            if len(tried) <= times:
                raise OSError(28, "No space left on device")
        return real(run, number, *rest)

    monkeypatch.setattr(episodes, "save_checkpoint", save)
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.01)
    return tried


def test_a_disk_full_at_the_last_checkpoint_is_waited_for(store, monkeypatch):
    tried = no_space_for(monkeypatch, episode=12, times=5)
    run = store.create(small_config())
    assert train(run.config, run, build=fake_build()) == "completed"
    assert len(tried) == 6 and run.checkpoints()[-1].episode == 12 and run.status().message.startswith("completed")
    told = [e["message"] for e in run.events() if e["kind"] == "alert"]
    assert sum("after episode 12 could not be written" in m for m in told) == 2 and any("accepts again" in m for m in told), "once after the episode, once at the end"


def test_a_disk_that_stays_full_at_the_last_checkpoint_fails_the_run_and_resume_completes_it(store, monkeypatch):
    config = small_config()
    with monkeypatch.context() as patch:
        no_space_for(patch, episode=12, times=10**9)
        patch.setattr(recorder_module, "PATIENCE_SECONDS", 0.05)
        run = store.create(config)
        with pytest.raises(RunLost, match="after episode 12 could not be written .No space left"):
            train(config, run, build=fake_build())
    assert run.status().state == "failed" and "free space and press Resume" in run.status().error and run.checkpoints()[-1].episode == 8
    assert train(config, run, build=fake_build()) == "completed"
    assert fingerprint(run) == fingerprint(whole_run(store, config)) and run.checkpoints()[-1].episode == 12


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that can be filled and made read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine does not let the test mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_small_disk_fills_and_grows_again(small_disk, store, monkeypatch):
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.02)
    config = small_config(episodes=120, sample_every=2, save_every=3)
    run = RunStore(small_disk).create(config)
    thread = threading.Thread(target=train, args=(config, run), kwargs={"build": fake_build()}, daemon=True)
    thread.start()
    wait_for(lambda: shutil.disk_usage(small_disk).free == 0 or not thread.is_alive())
    time.sleep(0.3)
    assert thread.is_alive() and run.status().episode < 120
    assert all(damage(info.path) == "" for info in run.checkpoints()) and run.checkpoints()
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    thread.join(150)
    assert run.status().state == "completed"
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(whole_run(store, config))["policy_updates.csv"]


def test_a_disk_that_turns_read_only_holds_the_run_until_it_is_writable(small_disk, store, monkeypatch):
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.02)
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    config = small_config(episodes=200, save_every=50, sample_every=50)
    run = RunStore(small_disk).create(config)
    thread = threading.Thread(target=train, args=(config, run), kwargs={"build": fake_build(step_seconds=0.001)}, daemon=True)
    thread.start()
    wait_for(lambda: run.status().episode >= 3)
    wait_for(lambda: subprocess.run(["mount", "-o", "remount,ro", small_disk], capture_output=True).returncode == 0)
    time.sleep(0.3)
    at = run.status().episode
    assert thread.is_alive() and at < 200
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    thread.join(150)
    assert run.status().state == "completed" and run.status().episode == 200
    with open(run.table_path("policy_updates"), newline="") as file:
        assert [int(r["episode"]) for r in csv.DictReader(file)] == list(range(1, 201))


def test_a_deleted_folder_ends_the_run_and_is_not_made_again(store):
    manager = Manager(store, build=fake_build(step_seconds=0.001))
    run_id, _ = manager.start({**SMALL, "episodes": 3000, "executor": "thread", "sample_every": 5000})
    wait_for(lambda: manager.status(run_id)["episode"] >= 2)
    run = store.get(run_id)
    run.path.rename(store.root.parent / "gone")
    assert manager.wait_until_idle(150)
    assert not run.path.exists() and "was deleted while it was training" in manager.host.sentences[run_id]
    other, _ = manager.start({**SMALL, "executor": "thread"})
    assert manager.wait_until_idle(150) and manager.status(other)["effective_state"] == "completed"
    assert manager.shutdown(150)


def test_a_clock_set_back_changes_nothing_but_the_time_stamps(store, monkeypatch):
    config, real = small_config(), time.time
    whole = whole_run(store, config)
    start = real()
    monkeypatch.setattr(time, "time", lambda: 2 * start - real() - 86400.0)
    run = store.create(config)
    states = []
    assert train(config, run, build=fake_build(), observe=lambda kind, content: states.append(store.effective_state(run))) == "completed"
    assert fingerprint(run) == fingerprint(whole) and set(states) <= {"starting", "running", "completed"}
    with open(run.table_path("policy_updates"), newline="") as file:
        assert all(float(r["time_per_episode"]) >= 0 for r in csv.DictReader(file))
