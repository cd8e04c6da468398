"""Bonuses on images whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy

from backend.rewards.bonuses import entropy_bonus, layout_difference, luminance, quality_bonus, region_variation, sequential_bonus, spatial_bonus


def half_white(left: bool) -> torch.Tensor:
    image = torch.zeros(3, 32, 32)
    image[..., :16] = float(left)
    image[..., 16:] = float(not left)
    return image


def test_luminance_is_bt601():
    image = torch.tensor([1.0, 0.5, 0.25])[None, :, None, None].expand(1, 3, 2, 2)
    np.testing.assert_allclose(luminance(image), 0.299 + 0.587 * 0.5 + 0.114 * 0.25, atol=1e-6)


def test_sequential_bonus_is_one_minus_the_mean_kernel():
    x = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    recent = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    expected = [1 - (1 + math.exp(-0.5)) / 2, 1 - (math.exp(-4.5) + math.exp(-2)) / 2]
    np.testing.assert_allclose(sequential_bonus(x, recent, 1.0), expected, atol=1e-12)
    assert sequential_bonus(x, recent[:0], 1.0).tolist() == [0, 0]


def test_layouts_that_mirror_each_other_differ_most():
    left, right = half_white(True), half_white(False)
    np.testing.assert_allclose(layout_difference(torch.stack([left, right])), 1, atol=1e-9)
    np.testing.assert_allclose(layout_difference(torch.stack([left, left * 0.3 + 0.2])), 0, atol=1e-9)
    # One unlike the two others, which are alike.
    np.testing.assert_allclose(layout_difference(torch.stack([left, left, right])), [0.5, 0.5, 1], atol=1e-9)
    assert layout_difference(left[None]).tolist() == [0]


def test_regions_of_a_flat_image_do_not_vary_and_those_of_a_divided_one_do():
    flat, divided = torch.full((3, 32, 32), 0.7), half_white(True)
    # Half of the regions are 0, half 1: standard deviation 0.5, cut at the scale.
    np.testing.assert_allclose(region_variation(torch.stack([flat, divided, divided * 0.25])), [0, 1, 0.5], atol=1e-6)
    assert float(spatial_bonus(torch.stack([flat, divided]))[1]) > float(spatial_bonus(torch.stack([flat, divided]))[0])


def test_entropy_equals_scipys_on_the_same_histogram():
    image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    grey = luminance(image)[0].numpy()
    steps = np.concatenate([np.abs(np.diff(grey, axis=0)).ravel(), np.abs(np.diff(grey, axis=1)).ravel()]) * 4
    parts = [scipy_entropy(np.histogram(np.clip(v, 0, 1), bins=64, range=(0, 1))[0]) / math.log(64) for v in (grey, steps)]
    np.testing.assert_allclose(entropy_bonus(image)[0], np.mean(parts), atol=1e-9)


def test_entropy_of_flat_and_of_noise():
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    flat = torch.full((1, 3, 64, 64), 0.3)
    values = entropy_bonus(torch.cat([flat, noise])).tolist()
    assert values[0] == 0
    assert 0.5 < values[1] <= 1


def test_quality_is_how_much_nearer_than_the_reference_is_to_itself():
    reference = torch.arange(0, 12, 2, dtype=torch.float64)[:, None]
    x = torch.tensor([[1.0], [15.0], [4.0]], dtype=torch.float64)
    one = [math.log(2), -math.log(5 / 2), 3.0]  # neighbours are 2 apart; a copy is not paid without bound
    np.testing.assert_allclose(quality_bonus(x, reference, 1), one, atol=1e-9)
    own = (4 * 2 * math.log(2) + 2 * (math.log(2) + math.log(4))) / 12  # only the two ends have no neighbour on their other side
    two = [own, own - (math.log(5) + math.log(7)) / 2, (3 + own - math.log(2)) / 2]
    np.testing.assert_allclose(quality_bonus(x, reference, 2), two, atol=1e-9)


def test_quality_does_not_prefer_where_the_reference_is_thin():
    """As near to an image that stands alone as to one among others: in units of each one's own radius the first paid most."""
    dense, alone = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[20.0, 0.0]])
    reference = torch.cat([dense, alone]).double()
    among, lonely = quality_bonus(torch.tensor([[0.5, -1.0], [20.0, 1.0]]).double(), reference, 3)
    assert among > lonely + 1


def test_quality_of_a_copy_has_a_finite_derivative():
    reference = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = reference[:2].clone().requires_grad_()
    quality_bonus(x, reference, 3).sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad != 0).any()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_bonuses_of_constant_and_identical_images_are_finite(count):
    images = torch.zeros(count, 3, 16, 16)
    for bonus in (spatial_bonus, entropy_bonus, layout_difference, region_variation):
        assert torch.isfinite(bonus(images)).all()
