"""What all tabs share."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from components.context import PageContext, load_once


def test_the_trainer_is_loaded_once_and_a_missing_model_is_not_said_there(context: PageContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loaded = threading.Semaphore(0)
    monkeypatch.setattr("components.context.load_once", loaded.release)
    context.warm_up(0.0)
    context.warm_up(0.0)
    assert loaded.acquire(timeout=5) and not loaded.acquire(timeout=0.3)
    monkeypatch.chdir(tmp_path)  # no model here
    load_once()
