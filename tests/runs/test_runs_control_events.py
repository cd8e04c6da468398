"""Requests and events: rubbish is refused with a reason, numbers go on, half lines vanish."""

import json
import math
import os
import threading

import pytest

from backend.errors import InputError
from backend.runs.control import LARGEST, pending_requests, remove_request, send_request
from backend.runs.events import EventLog, read_events, standing_news
from backend.runs.files import write_json


def test_requests_are_read_in_order_and_removed(tmp_path):
    sent = []
    for i, kind in enumerate(("pause", "change", "stop")):
        sent.append(send_request(tmp_path, kind, {"n": i}))
        os.utime(tmp_path / f"{sent[-1]}.json", ns=(i * 10**9, i * 10**9))
    found = pending_requests(tmp_path)
    assert [(r.id, r.kind, r.payload, r.refusal) for r in found] == [(s, k, {"n": i}, "") for i, (s, k) in enumerate(zip(sent, ("pause", "change", "stop"), strict=True))]
    for request in found:
        remove_request(tmp_path, request)
    assert pending_requests(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_an_unknown_request_is_refused_before_it_is_left(tmp_path):
    with pytest.raises(InputError, match="unknown request 'explode'"):
        send_request(tmp_path, "explode")
    with pytest.raises(InputError, match="could not be left"):
        send_request(tmp_path / "gone" / "control", "stop")
    assert list(tmp_path.iterdir()) == []


def test_rubbish_is_named_and_taken_away(tmp_path):
    folder = tmp_path / "run" / "control"
    folder.mkdir(parents=True)
    rubbish = {
        "a.json": b"", "b.json": b"{", "c.json": b"[]", "d.json": b'{"kind": "explode"}', "e.json": b'{"kind": "stop", "payload": 3}',
        "f.json": b"x" * (LARGEST + 1), "g.json": b"\xff\xfe", "h.json": b"[" * 9000, "i": b'{"kind": ["stop"]}',
    }  # fmt: skip
    for name, data in rubbish.items():
        (folder / name).write_bytes(data)
    (folder / "folder.json").mkdir()
    (folder / "full.json").mkdir()
    (folder / "full.json" / "x").write_text("x")
    os.symlink("/etc/passwd", folder / "link.json")
    found = pending_requests(folder)
    assert len(found) == len(rubbish) + 3 and all(r.refusal for r in found)
    for request in found:
        remove_request(folder, request)
    assert list(folder.iterdir()) == [] and os.path.exists("/etc/passwd")


def test_a_temporary_file_is_no_request_yet(tmp_path):
    (tmp_path / ".tmp-1").write_text("{")
    assert pending_requests(tmp_path) == []


def test_events_are_numbered_on_across_writers_and_half_lines(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("status", state="running")
    log.append("alert", message="<img src=x onerror=1>")
    with open(path, "ab") as file:
        file.write(b'not json\n{"seq": 3, "kind": "al')
    assert [e["seq"] for e in read_events(path)] == [1, 2]
    assert EventLog(path).append("change", field="eta", value=1.0)["seq"] == 3
    assert [(e["seq"], e["kind"]) for e in read_events(path, since_seq=1)] == [(2, "alert"), (3, "change")]


def test_threads_share_one_log_without_gaps(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    threads = [threading.Thread(target=lambda: [log.append("status", n=i) for i in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 201))


def test_news_of_earlier_attempts_and_warnings_that_passed_do_not_stand():
    def alert(message, episode, **more):
        return {"kind": "alert", "message": message, "episode": episode, **more}

    first = [{"kind": "status", "state": "starting", "episode": 0}, alert("disk full", 3), alert("plateau", 50, alert="plateau"), alert("hacking", 70, alert="reward_hacking")]
    assert [e["message"] for e in standing_news(first)] == ["disk full", "plateau", "hacking"]
    resumed = [*first, {"kind": "acknowledgement", "message": "no"}, {"kind": "status", "state": "starting", "episode": 60}, alert("checkpoint damaged", 60)]
    resumed.append({"kind": "status", "state": "running", "episode": 60})
    assert [e["message"] for e in standing_news(resumed)] == ["plateau", "checkpoint damaged"], "episode 70 comes again, and so would its warning"
    paused = [*resumed, {"kind": "status", "state": "paused"}, {"kind": "status", "state": "running"}]
    assert standing_news(paused) == standing_news(resumed)
    passed = [*paused, {"kind": "alert_passed", "alert": "plateau", "episode": 80}]
    assert [e["message"] for e in standing_news(passed)] == ["checkpoint damaged"]
    again = [*paused, alert("plateau again", 90, alert="plateau")]
    assert [e["message"] for e in standing_news(again)] == ["checkpoint damaged", "plateau again"]


def test_events_wait_for_a_full_disk(tmp_path, monkeypatch):
    log, real = EventLog(tmp_path / "events.jsonl"), os.write

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.runs.tables.os.write", full)
    with pytest.raises(OSError, match="No space"):
        log.append("alert", message="one")
    monkeypatch.setattr("backend.runs.tables.os.write", real)
    log.append("alert", message="two")
    assert [e["message"] for e in read_events(tmp_path / "events.jsonl")] == ["one", "two"]


def test_numbers_that_json_has_no_word_for_are_null_wherever_they_stand(tmp_path):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    values = {"score": math.nan, "list": [1.5, -math.inf, {"deep": (math.inf, 2)}], "text": "nan", "kept": 0.0}
    sound = {"score": None, "list": [1.5, None, {"deep": [None, 2]}], "text": "nan", "kept": 0.0}
    write_json(tmp_path / "status.json", values)
    assert json.loads((tmp_path / "status.json").read_text(), parse_constant=refuse) == sound

    told = EventLog(tmp_path / "events.jsonl").append("probe", **values)
    written = json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=refuse)
    assert written == told == {**told, **sound}
