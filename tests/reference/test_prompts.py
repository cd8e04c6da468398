"""Prompt files."""

from pathlib import Path

import pytest

from backend.config import TrainConfig
from backend.errors import InputError
from backend.reference.prompts import load_prompts, not_held_out, parse_prompts, said_of_overlap


def write(folder: Path, data: bytes) -> Path:
    path = folder / "prompts.txt"
    path.write_bytes(data)
    return path


def test_lines_in_order_without_blanks_comments_and_byte_order_mark(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbfaerial  view\tof craters\r\n\r\n  # a comment\nground view\nground view\n")
    assert load_prompts(path) == ["aerial view of craters", "ground view", "ground view"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no prompt"),
        (b"\n  \n# only a comment\n", "no prompt"),
        ("krater ä".encode("latin-1"), "not UTF-8 (byte 7)"),
        ("two\nlines".encode("utf-16"), "not UTF-8"),
        (b"fine\nbell \x07 here", "line 2 holds the control character U+0007"),
        (b"x\n" * 10_001, "10001 prompts"),
    ],
)
def test_what_cannot_be_prompts_is_refused_in_one_line(tmp_path, data, says):
    with pytest.raises(InputError) as caught:
        load_prompts(write(tmp_path, data), field="train_prompts")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "train_prompts"


def test_missing_file_folder_and_huge_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="is a folder"):
        load_prompts(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        load_prompts("")
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(5 * 2**20)
    with pytest.raises(InputError, match="more than 4194304"):
        load_prompts(large)


def test_a_prompt_may_be_of_any_length():
    assert parse_prompts("crater " * 1000) == [" ".join(["crater"] * 1000)]


def test_test_prompts_that_are_trained_on_are_found_whatever_their_capitals():
    training = ["old craters", "Fresh craters", "wide craters"]
    assert not_held_out(["fresh craters", "new craters", "OLD craters"], training) == ["fresh craters", "OLD craters"]
    assert said_of_overlap(["new craters"], training) == ""
    assert said_of_overlap(["new craters", "fresh craters"], training).startswith("1 of 2 test prompts stand among the training prompts too (first 'fresh craters')")


def test_the_shipped_test_prompts_are_never_trained_on():
    training, test = (load_prompts(getattr(TrainConfig(), name)) for name in ("train_prompts", "test_prompts"))
    assert len(training) == 400 and len(test) == 10 and not not_held_out(test, training)
