"""Statistics of image sets against closed forms, and the distance of renders to real crops where these are at hand."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from backend.reference import realism


def test_power_spectrum_finds_a_wave_at_its_wavenumber():
    x = np.arange(128) / 128
    images = np.broadcast_to(0.5 + 0.2 * np.sin(2 * np.pi * 17 * x), (3, 128, 128)).astype(np.float32)
    rings, power = realism.power_spectrum(images)
    assert rings[np.argmax(power)] == 17


def test_power_spectrum_of_white_noise_is_flat_and_of_its_variance():
    images = np.random.default_rng(0).normal(0.5, 0.1, (20, 128, 128)).astype(np.float32)
    rings, power = realism.power_spectrum(images)
    assert np.polyfit(np.log10(rings[4:]), power[4:], 1)[0] == pytest.approx(0.0, abs=0.1)
    assert 10 ** power[10:].mean() == pytest.approx(0.01 * 0.375**2, rel=0.1)  # a Hann window keeps 3/8 of the power along each axis


def test_gradient_of_a_ramp_and_contrast_of_a_checkerboard():
    ramp = np.broadcast_to(np.arange(64, dtype=np.float32) * 0.01, (2, 64, 64))
    assert np.allclose(realism.slopes(ramp), 0.01, atol=1e-6)
    board = np.indices((64, 64)).sum(0)[None] % 2 * 0.4
    assert realism.contrasts(board)[0] == pytest.approx(0.2)


def test_patches_of_rank_two_have_two_components():
    rng = np.random.default_rng(1)
    basis = rng.normal(size=(2, 8, 8))
    images = np.einsum("nijk,kab->niajb", rng.normal(size=(30, 4, 4, 2)), basis).reshape(30, 32, 32)
    kept = realism.patch_variance(images)
    assert kept[1] == pytest.approx(1.0, abs=1e-6) and kept[0] < 0.95


def test_frechet_distance_of_gaussians_against_the_closed_form():
    rng = np.random.default_rng(2)
    a = rng.normal(0.0, 1.0, (200_000, 2))
    b = rng.normal(0.0, 2.0, (200_000, 2)) + np.array([3.0, 0.0])
    assert realism.frechet(a, b) == pytest.approx(9.0 + 2.0 * (2.0 - 1.0) ** 2, rel=0.02)


@pytest.mark.parametrize("make, word", [(lambda f: f / "missing", "not a folder"), (lambda f: f, "0 images")])
def test_a_folder_that_cannot_be_used_is_named(tmp_path, make, word):
    with pytest.raises(InputError, match=word):
        realism.load_grey(make(tmp_path))
    assert realism.main(["--real", str(make(tmp_path)), "--out", str(tmp_path / "x.png")]) == 2


def test_images_are_centre_cropped_to_squares(tmp_path):
    wide = np.zeros((96, 200), np.uint8)
    wide[:, 52:148] = 200
    for i in range(20):
        Image.fromarray(wide).save(tmp_path / f"{i}.png")
    grey = realism.load_grey(tmp_path)
    assert grey.shape == (20, 128, 128) and grey.min() > 0.75


def real_folder(name: str) -> Path:
    root = os.environ.get("REAL_CROPS_DIR")
    if not root:
        pytest.skip("REAL_CROPS_DIR is unset: it names a folder of real crater crops, which are not part of the project")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: REAL_CROPS_DIR must hold {name}")
    return folder


@pytest.mark.parametrize("sensor, folder, limit", [("themis", "themis_dayir_acse", 130.0), ("ctx", "ctx_mc11e_francis2020", 170.0)])
def test_renders_are_near_real_crops(tmp_path, sensor, folder, limit):
    out = tmp_path / "figure.png"
    assert realism.main(["--real", str(real_folder(folder)), "--sensor", sensor, "--out", str(out), "--seed", "3"]) == 0
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert numbers["feature_distance"]["distance"] < limit
    assert numbers["rendered"]["spectral_slope_4_30"] == pytest.approx(numbers["real"]["spectral_slope_4_30"], abs=0.6)
    assert out.stat().st_size > 5_000


def test_the_floor_stands_beside_a_distance_of_as_many_images(monkeypatch):
    """Of one and the same distribution: a distance of more images is smaller, so only equal numbers compare (and roughly: the axes are the real set's own)."""
    monkeypatch.setattr("backend.features.load.load_extractor", lambda name: lambda images: images[:, 0].flatten(1))
    rng = np.random.default_rng(1)
    found = realism.feature_distance(rng.normal(size=(220, 8, 8)), rng.normal(size=(110, 8, 8)))
    assert found["beside_floor"] == pytest.approx(found["floor"], rel=0.3) and found["distance"] < 0.5 * found["floor"]
    assert found["components"] == 48 and realism.feature_distance(rng.normal(size=(60, 8, 8)), rng.normal(size=(40, 8, 8)), count=40)["components"] == 40


@pytest.mark.slow
def test_noise_is_far_from_renders():
    rng = np.random.default_rng(0)
    renders = realism.rendered_grey("themis", 112, 5)
    noise = rng.random((112, 128, 128), dtype=np.float32)
    near = realism.feature_distance(renders[:56], renders[56:], count=56, draws=2)["distance"]
    far = realism.feature_distance(noise[:56], renders[56:], count=56, draws=2)["distance"]
    assert far > 4 * near
