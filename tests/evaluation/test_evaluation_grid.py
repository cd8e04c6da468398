"""The grid search finds the best constant, and knows when it is the base."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from backend.config import TrainConfig
from backend.errors import InputError
from backend.evaluation import generate
from backend.evaluation.grid_search import ceiling_sentence, grid_search, markdown_grid, paired_gain
from backend.evaluation.group_score import group_scores
from backend.evaluation.protocol import Protocol


@pytest.fixture
def scene(tiny_pipeline, tmp_path, monkeypatch):
    """Backbone and protocol of a miniature pipeline with a cache of its own."""
    monkeypatch.setenv("CRATER_CACHE", str(tmp_path))
    config = TrainConfig(base_model=str(tiny_pipeline), num_inference_steps=4, window_start=0, window_size=2)
    backbone = generate.open_backbone(config, "cpu")
    return config, Protocol(("aerial view of mars craters",), 8, 4, 7.5), backbone, generate.weights_digest(backbone)


def test_paired_gain_is_the_paired_t_statistic():
    base, tuned = np.random.default_rng(0).normal(size=(2, 16))
    found = paired_gain(tuned, base)
    assert found["z"] == pytest.approx(stats.ttest_rel(tuned, base).statistic)
    assert found["gain"] == pytest.approx((tuned - base).mean())
    with pytest.raises(ValueError, match="two pairs"):
        paired_gain(base[:1], base[:1])


def test_grid_finds_the_guidance_that_the_score_likes(scene):
    drawn = generate.base_images(scene[0], Protocol(scene[1].prompts, 8, 4, 2.0), scene[2], scene[3])
    result = grid_search(*scene, lambda images: -np.abs(images.astype(float) - drawn).mean(axis=(1, 2, 3)), guidances=(2.0, 7.5), warps=(1.0, 2.0))
    assert (result["best"]["guidance"], result["best"]["warp"]) == (2.0, 1.0)
    assert result["best"]["score"] == 0
    untouched = next(cell for cell in result["cells"] if (cell["guidance"], cell["warp"]) == (7.5, 1.0))
    assert untouched["gain"] == 0
    assert "| 2 |" in markdown_grid(result)


def test_a_base_that_nothing_beats_is_its_own_ceiling(scene):
    home = generate.base_images(*scene)
    result = grid_search(*scene, lambda images: -np.abs(images.astype(float) - home).mean(axis=(1, 2, 3)), guidances=(1.0, 3.0), warps=(1.0,))
    assert result["best"]["gain"] == 0
    assert result["best"]["guidance"] == 7.5
    with pytest.raises(InputError, match="empty grid"):
        grid_search(*scene, lambda images: images, guidances=())


def test_groups_are_consecutive_and_whole():
    class Recorder:
        """Scores a set by its mean and remembers its captions."""

        seen: list[list[str]] = []

        def score_set(self, images, captions):
            self.seen.append(captions)
            return float(images.mean())

    images = np.repeat(np.arange(7, dtype=np.uint8), 16 * 16 * 3).reshape(7, 16, 16, 3)
    scores = group_scores(Recorder(), images, list("abcdefg"), size=3)
    assert scores * 255 == pytest.approx([1, 4])
    assert Recorder.seen == [["a", "b", "c"], ["d", "e", "f"]]


def test_the_ceiling_is_claimed_beyond_two_standard_errors_only():
    cell = {"guidance": 3.0, "warp": 1.0, "gain": 0.1, "standard_error": 0.02, "z": 5.0}
    assert "reaches 90%" in ceiling_sentence({"best": cell}, [0.08, 0.1])
    assert "base is the ceiling" in ceiling_sentence({"best": cell | {"z": 1.9}}, [0.1])
