"""The teacher of the denoiser's finish: renders satisfy it, pictures of other captions and grids do not, and its units are saved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backend.base_model import teacher
from backend.base_model.critic import BLOCKS, Sight
from backend.base_model.measure import to_tensor
from backend.base_model.readers import region_features
from backend.base_model.teacher import CELL, FIRST, Teacher, Usual, _usual, cell_pattern
from backend.base_model.unfinished import said
from backend.features.load import load_extractor
from backend.reference.captions import ATTRIBUTES, caption
from backend.reference.renderer import render_batch, sample_parameters
from backend.rewards.attributes_model import AttributeModel

World = tuple[torch.Tensor, torch.Tensor, Sight, Teacher]


@pytest.fixture(scope="module")
def world() -> World:
    """Renders in [-1, 1], what their captions say, and a teacher calibrated on two thirds of them."""
    rng = np.random.default_rng(11)
    params = [sample_parameters(rng) for _ in range(144)]
    pictures, words = to_tensor(render_batch(params, range(len(params)))) * 2 - 1, said([caption(p) for p in params])
    sight = Sight(pictures[:32])
    return pictures, words, sight, Teacher(sight, pictures[:96], words[:96])


def test_it_reads_what_the_fitted_regressors_read(world: World) -> None:
    pictures, _, sight, taught = world
    model = AttributeModel.load(teacher.TEACHER_FILE)
    features = region_features(load_extractor("efficientnet_lite2"), pictures[:4] / 2 + 0.5, BLOCKS)
    expected = (features.double() - model.mean) / model.std @ model.weight + model.bias
    torch.testing.assert_close(taught.read(sight(pictures[:4])).double(), expected, atol=2e-3, rtol=1e-3)


def test_renders_are_nearer_to_their_own_captions_than_to_others(world: World) -> None:
    """Renders that it was not calibrated on."""
    pictures, words, sight, taught = world
    maps = sight(pictures[96:])
    own, other = (float(taught.unlike(maps, w)) for w in (words[96:], words[96:].roll(7, 0)))
    assert own < 0.5 * other, (own, other)


def test_nothing_is_asked_of_what_a_caption_leaves_out(world: World) -> None:
    pictures, words, sight, taught = world
    maps = sight(pictures[96:104])
    assert float(taught.unlike(maps, torch.full((8, len(ATTRIBUTES)), math.nan))) == 0
    view = words[96:104].clone()
    view[:, 1:] = math.nan
    assert 0 <= float(taught.unlike(maps, view)) < float(taught.unlike(maps, 1 - view))


def test_a_picture_can_follow_it(world: World) -> None:
    pictures, words, sight, taught = world
    x = pictures[96:98].clone().requires_grad_()
    wrong = words[96:98].roll(1, 0)
    first = taught.unlike(sight(x), wrong)
    step = torch.autograd.grad(first, x)[0]
    with torch.no_grad():
        second = taught.unlike(sight(x - 2.0 * step / step.norm()), wrong)
    assert second < first


def test_what_is_usual_is_a_regression_and_needs_enough_captions() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random(60))
    y = 0.4 * x + 0.2 + 0.05 * torch.from_numpy(rng.normal(size=60))
    x[::10] = math.nan
    slope, level, spread, variance = _usual(x, y)
    keep = ~x.isnan()
    expected = np.polyfit(x[keep], y[keep], 1)
    assert (slope, level) == pytest.approx(tuple(expected)) and spread == pytest.approx(float((y - slope * x - level)[keep].std(unbiased=False)))
    assert variance == pytest.approx(float(x[keep].var(unbiased=False)))
    assert math.isnan(_usual(x[:10], y[:10])[0]) and math.isnan(_usual(torch.full((60,), 0.5), y)[0])


def test_a_grid_of_cells_is_seen_and_renders_have_none(world: World) -> None:
    pictures = world[0]
    grid = torch.zeros(128, 128)
    grid[::CELL] += 0.02
    grid[:, ::CELL] += 0.02
    without, with_grid = float(cell_pattern(pictures)), float(cell_pattern((pictures + grid).clamp(-1, 1)))
    assert without < 2e-3 < 10 * without < with_grid
    shifted = torch.roll(pictures + grid, (3, 5), (2, 3))
    assert float(cell_pattern(shifted)) > 10 * without


def test_unit_is_the_mean_of_the_first_gradients_and_is_saved() -> None:
    unit, gradients = Usual(), [torch.full((4,), float(i)) for i in range(1, FIRST + 6)]
    for gradient in gradients:
        scaled = unit(gradient)
    assert float(unit.norm) == pytest.approx(np.mean([float(g.norm()) for g in gradients[:FIRST]]))
    torch.testing.assert_close(scaled, gradients[-1] / unit.norm)
    again = Usual()
    again.load_state_dict(unit.state_dict())
    torch.testing.assert_close(again(gradients[0]), gradients[0] / unit.norm)
