"""Measurements of drawn scenes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from backend.evaluation import image_statistics as measure


def grey(plane: np.ndarray) -> np.ndarray:
    """[N, h, w] in [0, 1] -> uint8 [N, h, w, 3]."""
    return np.repeat((plane * 255).round().astype(np.uint8)[..., None], 3, axis=-1)


def disc(radius: float, size: int = 128, centre: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    inside = (x - centre[0] * size) ** 2 + (y - centre[1] * size) ** 2 < radius**2
    return np.where(inside, 0.3, 0.6)


def test_haar_keeps_energy_and_constants():
    plane = np.random.default_rng(0).normal(size=(3, 16, 16))
    approximation, details = measure.haar(plane)
    energy = (approximation**2).sum() + sum((band**2).sum() for band in details)
    assert energy == pytest.approx((plane**2).sum())
    approximation, details = measure.haar(np.full((1, 8, 8), 0.5))
    assert approximation == pytest.approx(1.0)
    assert max(np.abs(band).max() for band in details) == 0


def test_wavelet_energy_of_stripes_lies_in_one_band():
    stripes = np.zeros((1, 64, 64))
    stripes[:, :, ::2] = 1
    row = measure.wavelet_statistics(grey(stripes))[0]
    energies = row[: 6 * measure.LEVELS : 2]
    assert energies.argmax() == 0
    assert 10 ** energies[0] == pytest.approx(1.0, rel=0.01)
    assert energies[1:].max() < -4


def test_gaussian_texture_has_the_sparsity_of_a_gaussian():
    noise = np.random.default_rng(1).normal(0.5, 0.1, size=(4, 128, 128)).clip(0, 1)
    rows = measure.wavelet_statistics(grey(noise))
    assert 10 ** rows[:, 1] == pytest.approx(np.sqrt(2 / np.pi), rel=0.02)


def test_wavelets_of_tiny_images_are_refused():
    with pytest.raises(ValueError, match="fewer wavelet levels"):
        measure.wavelet_statistics(np.zeros((1, 16, 16, 3), np.uint8))


@pytest.mark.parametrize("size", [128, 96, 512])
def test_blob_scale_follows_the_radius(size):
    scales = [measure.crater_attributes(grey(disc(share * size, size)[None]))[0, 4] for share in (0.05, 0.1, 0.2)]
    assert np.diff(scales) == pytest.approx([1, 1], abs=0.45)


def test_blob_count_grows_with_craters():
    many = np.minimum.reduce([disc(7, centre=(x, y)) for x in (0.2, 0.5, 0.8) for y in (0.2, 0.5, 0.8)])
    one = measure.crater_attributes(grey(disc(7)[None]))[0, 5]
    nine = measure.crater_attributes(grey(many[None]))[0, 5]
    assert one == pytest.approx(1.0, abs=0.6)
    assert nine - one > 1.5


def test_axis_turns_with_the_image():
    ramp = np.broadcast_to(0.5 + 0.3 * np.sin(np.arange(64) / 4), (1, 64, 64))
    across = measure.crater_attributes(grey(ramp))[0, 6]
    along = measure.crater_attributes(grey(np.swapaxes(ramp, 1, 2)))[0, 6]
    assert across == pytest.approx(1, abs=0.01)
    assert along == pytest.approx(-1, abs=0.01)


def test_colour_brightness_and_vertical_light():
    image = np.zeros((2, 64, 64, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 100
    image[1, :32] = 220
    rows = measure.crater_attributes(image)
    assert rows[0, 2] == pytest.approx(np.log(208 / 108), rel=1e-6)
    assert rows[0, 0] == pytest.approx((0.2126 * 200 + 0.0722 * 100) / 255, rel=1e-5)
    assert rows[0, 8] == pytest.approx(0, abs=1e-6)
    assert rows[1, 8] > 0.3


def test_featureless_images_give_finite_numbers():
    assert np.isfinite(measure.crater_attributes(np.zeros((2, 128, 128, 3), np.uint8))).all()
    assert np.isfinite(measure.wavelet_statistics(np.full((2, 128, 128, 3), 255, np.uint8))).all()
