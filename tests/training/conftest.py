"""What the trainer's tests share."""

import pytest

from backend.runs import RunStore
from backend.training.manager import Manager
from tests.training.fake_learner import fake_build


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


@pytest.fixture
def manager(store):
    made = Manager(store, build=fake_build(step_seconds=0.001), require_token=True)
    yield made
    assert made.shutdown(150)
