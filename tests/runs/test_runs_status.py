"""States, heartbeats and the question whether a writer lives."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from backend.errors import InputError
from backend.runs import process
from backend.runs.status import LIVE, NEXT, STALE_SECONDS, TERMINAL, Liveness, Status, StatusWriter, fresh_status, read_status
from backend.runs.takeover import claim_attempt, claimed


def test_states_are_live_or_terminal_and_terminal_ones_only_start_again():
    assert set(NEXT) == set(LIVE) | set(TERMINAL)
    assert all(set(NEXT[state]) == {"queued", "starting"} for state in TERMINAL)
    assert NEXT["running"][0] == "paused" and "running" in NEXT["paused"]


def test_the_state_machine_refuses_what_it_does_not_know(tmp_path):
    for old, new in itertools.product(NEXT, NEXT):
        writer = StatusWriter(tmp_path / "status.json", Status(state=old))
        if old == new or new in NEXT[old]:
            assert writer.update(state=new) and read_status(tmp_path / "status.json").state == new
        else:
            with pytest.raises(RuntimeError, match=f"from {old} to {new}"):
                writer.update(state=new)


def test_status_survives_its_file(tmp_path):
    status = fresh_status(state="running", episode=7, total=50, score=0.125, message="<b>", executor="thread")
    StatusWriter(tmp_path / "status.json", status).update()
    back = read_status(tmp_path / "status.json")
    assert dataclasses.replace(back, heartbeat=0, updated_at=status.updated_at) == status
    assert back.heartbeat == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "flying"}', '{"state": 3}', "null", "\x00" * 40])
def test_a_damaged_status_reads_as_interrupted_and_says_so(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    status = read_status(tmp_path / "status.json")
    assert status.state == "interrupted" and "status.json" in status.error


def test_values_of_a_wrong_type_are_left_at_their_defaults(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "episode": "many", "score": [1], "pid": True, "host": 3, "future": 1, "total": 9}))
    assert read_status(tmp_path / "status.json") == Status(state="running", total=9)


def test_the_heartbeat_goes_on_by_itself(tmp_path):
    writer = StatusWriter(tmp_path / "status.json", fresh_status(state="running"))
    writer.start_heartbeat(0.01)
    deadline = time.monotonic() + 5
    while read_status(tmp_path / "status.json").heartbeat < 3 and time.monotonic() < deadline or not (tmp_path / "status.json").exists():
        time.sleep(0.01)
    writer.stop_heartbeat()
    still = read_status(tmp_path / "status.json").heartbeat
    time.sleep(0.05)
    assert still >= 3 and read_status(tmp_path / "status.json").heartbeat == still


def test_a_refusing_disk_is_told_and_forgotten_when_it_gives_in(tmp_path):
    folder = tmp_path / "run"
    writer = StatusWriter(folder / "status.json", fresh_status(state="running"))
    assert not writer.update(episode=1) and "cannot be written" in writer.trouble and not folder.exists()
    folder.mkdir()
    assert writer.update() and writer.trouble == ""
    assert read_status(folder / "status.json").episode == 1


def test_a_dead_process_on_this_machine_is_seen_at_once():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    created = process.create_time(child.pid)
    status = Status(state="running", host=process.host_name(), pid=child.pid, pid_create_time=created)
    assert Liveness().effective_state("r", status) == "running"
    child.kill()
    deadline = time.monotonic() + 5
    while process.create_time(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Liveness().effective_state("r", status) == "interrupted"  # a zombie still, not yet waited for
    child.wait()
    assert Liveness().effective_state("r", status) == "interrupted"


def test_a_recycled_pid_is_another_process():
    status = fresh_status(state="running")
    assert Liveness().effective_state("r", status) == "running"
    assert Liveness().effective_state("r", dataclasses.replace(status, pid_create_time=status.pid_create_time - 60)) == "interrupted"
    assert process.create_time(os.getpid()) == pytest.approx(status.pid_create_time)


def test_another_machine_is_judged_by_its_heartbeat_on_the_readers_clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("backend.runs.status.time.monotonic", lambda: now[0])
    monkeypatch.setattr("backend.runs.status.time.time", lambda: pytest.fail("the wall clock decides nothing"))
    liveness, status = Liveness(stale_seconds=45), Status(state="running", host="elsewhere", pid=1, heartbeat=5)
    assert liveness.effective_state("r", status) == "running"
    now[0] += 44
    assert liveness.effective_state("r", status) == "running"
    now[0] += 2
    assert liveness.effective_state("r", status) == "interrupted"
    assert liveness.effective_state("r", dataclasses.replace(status, heartbeat=6)) == "running"
    assert liveness.effective_state("r", dataclasses.replace(status, state="completed")) == "completed"


def test_exactly_one_of_many_takes_a_run_over(tmp_path):
    folder, won, refused = tmp_path / "attempts", [], []

    def rival():
        try:
            won.append(claim_attempt(folder, 1))
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=rival) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [2] and len(refused) == 11 and all("taken over" in text for text in refused)


def test_an_attempt_whose_owner_died_before_it_wrote_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("backend.runs.takeover.PATIENCE_SECONDS", 0.05)
    (tmp_path / "attempts" / "2").mkdir(parents=True)
    (tmp_path / "attempts" / "3").mkdir()
    (tmp_path / "attempts" / "3" / "owner.json").write_text(json.dumps({"host": process.host_name(), "pid": 2**22 + 1, "pid_create_time": 1.0}))
    assert claim_attempt(tmp_path / "attempts", 1) == 4


def claim_of_another_machine(run, seconds_ago):
    """An attempt that a process elsewhere claimed so long ago, on the file system's clock."""
    claim = run / "attempts" / "2"
    claim.mkdir(parents=True)
    (claim / "owner.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "pid_create_time": 1.0}))
    StatusWriter(run / "status.json", Status(state="stopped", host="elsewhere", attempt=1)).update()
    then = (claim / "owner.json").stat().st_mtime - seconds_ago
    for path in (claim / "owner.json", run / "status.json"):
        os.utime(path, (then, then))
    return claim / "owner.json"


def test_a_claim_of_a_machine_that_is_gone_blocks_the_run_for_as_long_as_a_heartbeat_may_be_silent(tmp_path, monkeypatch):
    claim_of_another_machine(tmp_path, STALE_SECONDS - 30)
    monkeypatch.setattr(time, "time", lambda: pytest.fail("this machine's clock decides nothing"))
    with pytest.raises(InputError, match="a process on elsewhere, which showed itself [1-3][0-9] s ago: it counts as lost after 45 s"):
        claim_attempt(tmp_path / "attempts", 1)
    os.utime(tmp_path / "attempts" / "2" / "owner.json", (1, 1))
    os.utime(tmp_path / "status.json", (1, 1))
    assert claim_attempt(tmp_path / "attempts", 1) == 3
    assert sorted(path.name for path in (tmp_path / "attempts").iterdir()) == ["2", "3"]


def test_a_claim_of_another_machine_whose_status_moves_is_respected(tmp_path):
    claim_of_another_machine(tmp_path, 600)
    writer = StatusWriter(tmp_path / "status.json", Status(state="starting", host="elsewhere", attempt=2))
    writer.update()
    os.utime(tmp_path / "status.json", (1, 1))
    with pytest.raises(InputError, match="being taken over by a process on elsewhere"):
        claim_attempt(tmp_path / "attempts", 1)
    StatusWriter(tmp_path / "status.json", Status(state="stopped", host="elsewhere", attempt=1)).update()
    with pytest.raises(InputError, match="being taken over by a process on elsewhere"):
        claim_attempt(tmp_path / "attempts", 1)


def test_a_claim_shows_that_its_owner_lives_and_is_given_back_where_nothing_comes_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("backend.runs.takeover.HEARTBEAT_SECONDS", 0.01)
    with pytest.raises(ValueError, match="unreadable"), claimed(tmp_path / "attempts", 1) as number:
        owner = tmp_path / "attempts" / str(number) / "owner.json"
        os.utime(owner, (1, 1))
        end = time.monotonic() + 30
        while owner.stat().st_mtime < 2:
            assert time.monotonic() < end
        raise ValueError("unreadable")
    assert list((tmp_path / "attempts").iterdir()) == [] and claim_attempt(tmp_path / "attempts", 1) == 2
