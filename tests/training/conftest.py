"""What the trainer's tests share."""

import pytest

from backend.runs import RunStore


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")
