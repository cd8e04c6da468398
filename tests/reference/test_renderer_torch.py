"""The torch renderer against the NumPy one: same random numbers, same pictures up to rounding."""

import numpy as np
import pytest
import torch

from backend.errors import InputError
from backend.reference.renderer import INTERIORS, KINDS, RIMS, TERRAINS, CraterParameters, photometry, render_batch, sample_parameters
from backend.reference.renderer.torch_batch import Batch, blur
from backend.reference.renderer.torch_imaging import cast_shadow
from backend.reference.renderer.torch_path import render_batch_on

SIZE = 48


def every_word(view: str) -> list[CraterParameters]:
    """One picture per kind, going round the terrains, rims and interiors."""
    rng = np.random.default_rng(1)
    return [
        sample_parameters(rng, view=view, kind=kind, terrain=TERRAINS[i % len(TERRAINS)], rims=RIMS[i % len(RIMS)], interiors=INTERIORS[(3 * i) % len(INTERIORS)])
        for i, kind in enumerate(KINDS)
    ]


def assert_same_pictures(params: list[CraterParameters], size: int = SIZE) -> None:
    seeds = range(7, 7 + len(params))
    expected = render_batch(params, seeds, size=size).astype(int)
    got = render_batch_on(params, seeds, size=size).numpy().astype(int)
    difference = np.abs(expected - got)
    assert difference.mean((1, 2, 3)).max() < 0.1  # grey levels of 255; rounding in single precision
    assert (difference > 3).mean() < 2e-3  # single pixels where a shadow's edge or a dune's crest tips over


@pytest.mark.parametrize("view", ["aerial", "ground"])
def test_every_kind_terrain_rim_and_interior_agrees(view):
    assert_same_pictures(every_word(view))


def test_scenery_of_another_size_agrees():
    other = {"dune_height": 1.5, "dune_spacing": 0.7, "layer_height": 0.02, "wall_layers": 4.0, "gullies": 11.0, "gully_depth": 0.02, "frost": 0.4, "streaks": 0.4}
    assert_same_pictures([p.replace(**other) for p in every_word("aerial")])


@pytest.mark.parametrize("sensor", ["themis", "ctx", "hirise"])
def test_every_instrument_agrees(sensor):
    rng = np.random.default_rng(2)
    assert_same_pictures([sample_parameters(rng, sensor=sensor) for _ in range(4)])


def test_larger_maps_agree_too():
    rng = np.random.default_rng(3)
    assert_same_pictures([sample_parameters(rng) for _ in range(3)], size=144)


def test_shadows_agree_for_every_direction_of_the_sun():
    rng = np.random.default_rng(0)
    height = np.cumsum(rng.normal(0.0, 0.02, (24, 40, 40)), 1).astype(np.float32)
    azimuth, elevation = np.linspace(4.0, 349.0, 24), rng.uniform(12.0, 50.0, 24)
    expected = np.stack([photometry.cast_shadow(h, 0.05, a, e) for h, a, e in zip(height, azimuth, elevation, strict=True)])
    columns = [torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (azimuth, elevation)]
    got = cast_shadow(torch.from_numpy(height), 0.05, *columns).numpy()
    assert (np.abs(expected - got) > 2e-3).mean() < 1e-3 and 0.05 < expected.mean() < 0.9


def test_blur_with_one_width_per_picture_against_scipy():
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(0).random((3, 2, 20, 24)).astype(np.float32)
    sigma = np.array([0.6, 1.7, 0.9], np.float32)
    got = blur(torch.from_numpy(image), torch.from_numpy(sigma)).numpy()
    for i in range(3):
        np.testing.assert_allclose(got[i], gaussian_filter(image[i], (0, sigma[i], sigma[i]), mode="nearest", truncate=3.0), atol=2e-6)


def test_a_generator_draws_other_pictures_of_the_same_scene():
    params = [sample_parameters(np.random.default_rng(5), view="aerial", kind="bowl", terrain="smooth plains", size=0.6)] * 2
    with_seeds = render_batch_on(params, [1, 2], size=SIZE).float()
    drawn, again = (render_batch_on(params, [1, 2], size=SIZE, generator=torch.Generator().manual_seed(9)).float() for _ in range(2))
    assert torch.equal(drawn, again) and not torch.equal(drawn, with_seeds)
    pair = torch.stack([with_seeds[0].mean(2).flatten(), drawn[0].mean(2).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.5


def test_numbers_of_a_batch_are_named_like_the_parameters():
    params = every_word("aerial")
    batch = Batch.of(params, torch.device("cpu"))
    assert batch.sun_elevation.shape == (len(params), 1, 1)
    assert batch.sun_elevation[3, 0, 0].item() == pytest.approx(params[3].sun_elevation)
    with pytest.raises(AttributeError):
        batch.sun_height  # noqa: B018


@pytest.mark.parametrize(
    "seeds, size, word",
    [([], 64, "seeds"), ([-4], 64, "-4"), ([0], 16, "32")],
)
def test_bad_input_is_named(seeds, size, word):
    with pytest.raises(InputError, match=word):
        render_batch_on([CraterParameters()], seeds, size=size)


@pytest.mark.gpu
def test_cuda_agrees_with_numpy():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(6)
    params = [sample_parameters(rng) for _ in range(32)]
    expected = render_batch(params, range(32)).astype(int)
    got = render_batch_on(params, range(32), device="cuda").cpu().numpy().astype(int)
    assert np.abs(expected - got).mean((1, 2, 3)).max() < 0.2
