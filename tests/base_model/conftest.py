"""What the base model's tests share."""

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(6, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def few_renders_calibrate_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a thousand takes ten seconds, each time that a training goes on."""
    monkeypatch.setattr("backend.base_model.sharpen.CALIBRATED", 8)


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """UNets of a tenth of the weights, where what is tested is not what a network draws: each step takes half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.base_model.denoiser.WIDTHS", (32, 32, 32))
        yield
