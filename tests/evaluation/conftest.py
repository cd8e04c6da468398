"""What the tests of the evaluation share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that the tests of this folder share and nobody else."""
    folder = tmp_path_factory.getbasetemp() / "evaluation_cache"
    monkeypatch.setenv("CRATER_CACHE", str(folder))
    return folder
