"""The teacher of the denoiser's finish: renders satisfy it, pictures of other captions and grids do not, and its units are saved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backend.base_model import teacher
from backend.base_model.critic import BLOCKS, Sight
from backend.base_model.measure import to_tensor
from backend.base_model.readers import region_features, region_statistics
from backend.base_model.teacher import CELL, FIRST, MEMORY, Moments, Teacher, Usual, _usual, cell_pattern
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
    torch.testing.assert_close(taught.read(region_statistics(sight(pictures[:4]))).double(), expected, atol=2e-3, rtol=1e-3)


def test_renders_are_nearer_to_their_own_captions_than_to_others(world: World) -> None:
    """Renders that it was not calibrated on."""
    pictures, words, sight, taught = world
    maps = sight(pictures[96:])
    own, other = (float(taught(maps, w)["unlike"]) for w in (words[96:], words[96:].roll(7, 0)))
    assert own < 0.5 * other, (own, other)


def test_nothing_is_asked_of_what_a_caption_leaves_out(world: World) -> None:
    pictures, words, sight, taught = world
    maps = sight(pictures[96:104])
    assert float(taught(maps, torch.full((8, len(ATTRIBUTES)), math.nan))["unlike"]) == 0
    view = words[96:104].clone()
    view[:, 1:] = math.nan
    assert 0 <= float(taught(maps, view)["unlike"]) < float(taught(maps, 1 - view)["unlike"])


def test_a_picture_can_follow_it(world: World) -> None:
    pictures, words, sight, taught = world
    x = pictures[96:98].clone().requires_grad_()
    wrong = words[96:98].roll(1, 0)
    first = taught(sight(x), wrong)["unlike"]
    step = torch.autograd.grad(first, x)[0]
    with torch.no_grad():
        second = taught(sight(x - 2.0 * step / step.norm()), wrong)["unlike"]
    assert second < first


def begun(world: World, pictures: torch.Tensor, words: torch.Tensor) -> dict[str, float]:
    """The teacher's losses of a batch of those pictures after averages that began with all of them."""
    _, _, sight, taught = world
    state = {name: value.clone() for name, value in taught.state_dict().items()}
    taught.slopes.steps.zero_(), taught.typical.steps.zero_()
    for start in range(0, len(pictures), 8):
        taught.start_from(sight(pictures[start : start + 8]), words[start : start + 8])
    found = {name: float(loss) for name, loss in taught(sight(pictures[:8]), words[:8]).items()}
    taught.load_state_dict(state)
    return found


def test_readings_that_do_not_go_with_words_are_seen_over_many_pictures(world: World) -> None:
    pictures, words = world[0][96:], world[1][96:]
    own, other = begun(world, pictures, words), begun(world, pictures, words.roll(7, 0))
    assert own["slopes"] < 0.6 * other["slopes"], (own, other)
    assert own["typical"] == pytest.approx(other["typical"], rel=1e-4)


def test_pictures_that_vary_too_little_are_seen_over_many_pictures(world: World) -> None:
    pictures, words = world[0][96:], world[1][96:]
    narrow = pictures.mean(0) + 0.4 * (pictures - pictures.mean(0))
    own, alike = begun(world, pictures, words), begun(world, narrow, words)
    assert own["typical"] < 0.6 * alike["typical"], (own, alike)


def test_average_of_moments_is_that_of_batches_first_and_moves_slowly_then() -> None:
    moments = Moments(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    batches = torch.arange(12.0).reshape(6, 2)
    for batch in batches:
        moments.add(batch)
    torch.testing.assert_close(moments.found, batches.mean(0))
    moments.steps.fill_(1000)
    now = torch.zeros(2, requires_grad=True)
    loss = moments(now)
    expected = (1 - MEMORY) * batches.mean(0)
    torch.testing.assert_close(moments.found, expected)
    assert loss.item() == pytest.approx(float(((expected - torch.tensor([1.0, 2.0])) ** 2 * torch.tensor([1.0, 3.0])).sum()))
    torch.testing.assert_close(torch.autograd.grad(loss, now)[0], 2 * MEMORY * (expected - torch.tensor([1.0, 2.0])) * torch.tensor([1.0, 3.0]))


def test_what_is_usual_is_a_regression_and_needs_enough_captions() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random(60))
    y = 0.4 * x + 0.2 + 0.05 * torch.from_numpy(rng.normal(size=60))
    x[::10] = math.nan
    slope, level, spread, variance = _usual(x, y)
    keep = ~x.isnan()
    expected = np.polyfit(x[keep], y[keep], 1)
    assert (slope, level) == pytest.approx(tuple(expected)) and spread == pytest.approx(float((y - slope * x - level)[keep].std(unbiased=False)))
    assert variance == pytest.approx(slope**2 * float(x[keep].var(unbiased=False)))
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
