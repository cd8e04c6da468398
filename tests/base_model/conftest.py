"""What the base model's tests share."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(6, 64, 64, 3), dtype=np.uint8)
