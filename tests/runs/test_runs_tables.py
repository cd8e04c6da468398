"""CSV files: complete lines only, nothing lost to a full disk, cutting back for a resume."""

import csv
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.runs import tables
from backend.runs.files import atomic_write, cut_half_line, read_complete_lines
from backend.runs.tables import TableWriter, cut_after, read_columns, read_rows

COLUMNS = ("episode", "score", "text")


def test_rows_come_back_as_an_independent_reader_sees_them(tmp_path):
    writer = TableWriter(tmp_path / "t.csv", COLUMNS)
    writer.append([{"episode": 0, "score": 0.1 + 0.2, "text": 'a "quoted", one'}, {"episode": 1, "score": None, "text": "b", "unknown": 3}])
    with open(tmp_path / "t.csv", newline="") as file:
        plain = list(csv.DictReader(file))
    assert plain == [{"episode": "0", "score": "0.30000000000000004", "text": 'a "quoted", one'}, {"episode": "1", "score": "", "text": "b"}]
    rows, _ = read_rows(tmp_path / "t.csv")
    assert rows == [{"episode": 0.0, "score": 0.1 + 0.2, "text": 'a "quoted", one'}, {"episode": 1.0, "score": None, "text": "b"}]


def test_reading_from_an_offset_gives_only_what_is_new(tmp_path):
    writer = TableWriter(tmp_path / "t.csv", COLUMNS)
    writer.append([{"episode": 0, "score": 1.0}])
    first, offset = read_columns(tmp_path / "t.csv", 0, ["score"])
    assert read_columns(tmp_path / "t.csv", offset, ["score"]) == ({"score": []}, offset)
    writer.append([{"episode": 1, "score": 2.0}, {"episode": 2, "score": math.inf}])
    assert (first, read_columns(tmp_path / "t.csv", offset, ["score", "nowhere"])[0]) == ({"score": [1.0]}, {"score": [2.0, math.inf], "nowhere": []})


def test_a_half_written_last_line_is_not_shown_and_then_cut(tmp_path):
    path = tmp_path / "t.csv"
    TableWriter(path, COLUMNS).append([{"episode": 0, "score": 1.0}])
    whole = path.read_bytes()
    path.write_bytes(whole + b"1,2.")
    assert [r["episode"] for r in read_rows(path)[0]] == [0.0]
    TableWriter(path, COLUMNS).append([{"episode": 1, "score": 3.0}])
    assert [(r["episode"], r["score"]) for r in read_rows(path)[0]] == [(0.0, 1.0), (1.0, 3.0)]


def test_a_half_written_header_is_written_again(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"episode,sc")
    TableWriter(tmp_path / "t.csv", COLUMNS).append([{"episode": 5, "score": 1.0}])
    assert read_rows(tmp_path / "t.csv")[0][0]["episode"] == 5.0


def test_a_table_keeps_its_own_header_after_an_update_of_the_program(tmp_path):
    (tmp_path / "t.csv").write_text("score,episode\n1.0,0\n")
    TableWriter(tmp_path / "t.csv", COLUMNS).append([{"episode": 1, "score": 2.0, "text": "new"}])
    assert (tmp_path / "t.csv").read_text() == "score,episode\n1.0,0\n2.0,1\n"


def test_resume_cuts_the_rows_after_the_checkpoint(tmp_path):
    path = tmp_path / "t.csv"
    TableWriter(path, COLUMNS).append([{"episode": e, "score": float(i)} for e in range(6) for i in range(2)])
    before = path.read_bytes()
    path.write_bytes(before + b"6,7")
    assert cut_after(path, 3) == 6
    assert [r["episode"] for r in read_rows(path)[0]] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    assert before.startswith(path.read_bytes())
    assert cut_after(path, 3) == 0


def test_a_full_disk_loses_no_row_and_leaves_no_half_one(tmp_path, monkeypatch):
    path, real = tmp_path / "t.csv", os.write
    writer = TableWriter(path, COLUMNS)
    writer.append([{"episode": 0, "score": 0.5}])

    def full(descriptor, data):
        if len(data) > 4:
            return real(descriptor, data[:4])
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(tables.os, "write", full)
    for episode in (1, 2):
        with pytest.raises(OSError, match="No space"):
            writer.append([{"episode": episode, "score": 0.25, "text": "words"}])
        assert path.read_bytes() == before
    monkeypatch.setattr(tables.os, "write", real)
    writer.append([{"episode": 3, "score": 0.125}])
    assert [r["episode"] for r in read_rows(path)[0]] == [0.0, 1.0, 2.0, 3.0]


def test_a_deleted_table_is_not_made_anew_without_its_history(tmp_path):
    writer = TableWriter(tmp_path / "t.csv", COLUMNS)
    writer.append([{"episode": 0}])
    (tmp_path / "t.csv").unlink()
    with pytest.raises(FileNotFoundError):
        writer.append([{"episode": 1}])
    assert not (tmp_path / "t.csv").exists()


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    atomic_write(tmp_path / "x", "old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.runs.files.os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        atomic_write(tmp_path / "x", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200))
def test_lines_and_half_lines_share_a_file_without_overlap(tmp_path_factory, data, offset):
    path = tmp_path_factory.mktemp("lines") / "f"
    path.write_bytes(data)
    lines, end = read_complete_lines(path, min(offset, len(data)))
    assert b"".join(line + b"\n" for line in lines) == data[min(offset, len(data)) : end]
    assert b"\n" not in data[end:]
    assert cut_half_line(path) == len(data) - (data.rfind(b"\n") + 1)
    assert path.read_bytes() == data[: data.rfind(b"\n") + 1]
