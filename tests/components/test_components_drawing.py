"""Where memory or disk give out: a sentence that says what to change, and a device that is given back empty."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.errors import InputError
from backend.training import host
from components import drawing, pictures
from components.compare_tab import CompareTab
from components.compare_views import Pairs
from components.context import PageContext
from components.generate_tab import GenerateTab
from tests.components.fake_run import write_fake_run


class Model:
    """What takes up the device."""


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that cached memory was given back: whether the last model made by `failing` was gone by then."""
    times: list[bool] = []
    monkeypatch.setattr(host, "free_cached_memory", lambda: times.append(failing.last is None or failing.last() is None))
    return times


def failing(error: Exception) -> Any:
    """A function that makes a model and fails."""

    def work(*args: Any, **others: Any) -> None:
        model = Model()
        failing.last = weakref.ref(model)
        raise error

    return work


failing.last = None


def test_out_of_memory_says_what_to_change_and_leaves_nothing_on_the_device(context: PageContext, freed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_fake_run(context.store.root, 3)
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()):
        monkeypatch.setattr("backend.evaluation.generate.generate_images", failing(error))
        for count, tried in ((32, "try 8, or "), (6, "try 3, or "), (1, "images: close what else")):
            with pytest.raises(InputError, match=f"out of memory while drawing {count} images: .*close what else uses its memory") as said:
                drawing.draw_pair(context, None, None, ["craters"] * count, list(range(count)))
            assert tried in str(said.value)
        monkeypatch.setattr("backend.evaluation.evaluate.evaluate_run", failing(error))
        with pytest.raises(InputError, match=f"out of memory while evaluating 64 images: .*evaluate {run.id} --device cpu"):
            drawing.evaluate(context, run, None, 64)
        monkeypatch.setattr("backend.reference.embedding.image_features", failing(error))
        with pytest.raises(InputError, match="out of memory while building features of 2 images: choose a smaller extractor"):
            drawing.reference_features(context, np.zeros((2, 8, 8, 3), np.uint8), "dinov2")
    assert len(freed) == 15 and all(freed)
    monkeypatch.setattr(context.manager, "active", lambda: "a-run")
    with pytest.raises(InputError, match="stop the run that trains here"):
        drawing.evaluate(context, run, None, 64)


def test_a_disk_or_file_that_refuses_is_said_and_a_fault_of_ours_is_not_hidden(context: PageContext, freed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_fake_run(context.store.root, 3)
    for error, said in (
        (OSError(28, "No space left on device"), r"evaluating 4 images failed \(No space left on device\): free space"),
        (FileNotFoundError(2, "No such file or directory", "unet.safetensors"), r"\(No such file or directory: unet.safetensors\): see that the file is there"),
        (OSError("We couldn't connect to the hub"), r"\(We couldn't connect to the hub\): see that"),
    ):
        monkeypatch.setattr("backend.evaluation.evaluate.evaluate_run", failing(error))
        with pytest.raises(InputError, match=said):
            drawing.evaluate(context, run, None, 4)
    monkeypatch.setattr("backend.evaluation.evaluate.evaluate_run", failing(RuntimeError("shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="shapes"):
        drawing.evaluate(context, run, None, 4)
    with context.manager.device("test"):
        failing.last = None
    assert len(freed) == 5


def test_a_full_temporary_folder_is_said_and_tears_no_event(context: PageContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full() -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "scratch_folder", full)
    images = np.zeros((1, 8, 8, 3), np.uint8)
    monkeypatch.setattr("components.generate_tab.draw_pair", lambda *args: drawing.Drawn(images, None, ""))
    assert "No space left on device" in GenerateTab(context).generate("craters", count=1)[-1]
    pair = CompareTab(context, None, None).one_pair(Pairs(images, images, ["craters"], [0], "base", "tuned"), 1)
    assert pair[0] is None and "set TMPDIR" in pair[1]
