"""The renderer as a whole: bytes, shapes, words that are visible, bad input, speed."""

import hashlib
import time

import numpy as np
import pytest

from backend.errors import InputError
from backend.reference.renderer import INTERIORS, KINDS, RIMS, SENSORS, TERRAINS, CraterParameters, render, render_batch, sample_parameters, sheet


def pictures(count: int, seed: int = 0, size: int = 64, **fixed: object) -> tuple[list[CraterParameters], np.ndarray]:
    rng = np.random.default_rng(seed)
    params = [sample_parameters(rng, **fixed) for _ in range(count)]
    return params, render_batch(params, range(count), size=size)


def test_same_parameters_and_seed_give_the_same_bytes_in_any_batch():
    params, images = pictures(6)
    again = render_batch(params[::-1], [5, 4, 3, 2, 1, 0], size=64)[::-1]
    assert images.dtype == np.uint8 and images.shape == (6, 64, 64, 3)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(render(params[3], 3, 64), images[3])


def test_another_seed_gives_another_picture_of_the_same_parameters():
    params, images = pictures(4, kind="bowl", view="aerial")
    other = render_batch(params, [100, 101, 102, 103], size=64)
    for a, b in zip(images, other, strict=True):
        assert hashlib.sha256(a.tobytes()).digest() != hashlib.sha256(b.tobytes()).digest()
        assert np.corrcoef(a.mean(2).ravel(), b.mean(2).ravel())[0, 1] > 0.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", ["aerial", "ground"])
def test_every_kind_in_both_views_has_contrast_and_is_not_clipped(kind, view):
    _, images = pictures(4, kind=kind, view=view)
    grey = images.mean(3)
    assert (grey.std((1, 2)) > 1.5).all()
    assert ((grey <= 0) | (grey >= 254.5)).mean() < 0.1


@pytest.mark.parametrize("field, values", [("terrain", TERRAINS), ("rims", RIMS), ("interiors", INTERIORS), ("sensor", SENSORS)])
def test_every_word_renders_and_changes_the_picture(field, values):
    base = CraterParameters(size=0.7, infill=0.55, sun_elevation=30.0)
    images = np.stack([render(base.replace(**{field: value}), 1, 128) for value in values]).astype(float)
    if field == "sensor":
        assert all(np.ptp(image, axis=2).max() == 0 for image in images[1:])
        assert np.abs(images[0].mean(2) - images[1, ..., 0]).mean() < 3.0
        return
    held = {"sunlit interiors", "shadowed interiors", "worn"}  # these work through the sun's elevation and the freshness, held here
    seen = [i for i, value in enumerate(values) if value not in held]
    changes = [np.abs(images[i] - images[j]).mean() for i in seen for j in seen if j < i]
    assert min(changes) > 0.1 and np.median(changes) > 0.3


def test_shadowed_interiors_are_darker_than_sunlit_ones():
    means = []
    for interiors in ("shadowed interiors", "sunlit interiors"):
        _, images = pictures(10, seed=3, view="aerial", kind="bowl", interiors=interiors, rims="sharp", centre_x=0.0, centre_y=0.0)
        means.append((images[:, 22:42, 22:42].mean(3) < 60).mean())
    assert means[0] > 0.15 and means[0] > 3 * means[1]


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize(("interiors", "low", "high"), [("shadowed interiors", 11.0, 20.0), ("sunlit interiors", 48.0, 65.0)])
def test_interiors_that_are_asked_for_have_their_sun_with_every_sensor(sensor, interiors, low, high):
    rng = np.random.default_rng(3)
    elevations = [sample_parameters(rng, sensor=sensor, interiors=interiors).sun_elevation for _ in range(40)]
    assert low <= min(elevations) < max(elevations) <= high
    assert sample_parameters(rng, sensor=sensor, interiors=interiors, sun_elevation=30.0).sun_elevation == 30.0


def test_the_sun_lights_the_wall_opposite_to_it():
    base = CraterParameters(kind="bowl", size=0.6, depth_ratio=0.2, infill=0.2, sun_elevation=25.0, roughness=0.01, small_craters=0.0, noise=0.0, albedo_contrast=0.0)
    middle, near, far = slice(40, 88), slice(28, 40), slice(88, 100)
    for azimuth, bright, dark in ((180.0, (middle, far), (middle, near)), (90.0, (far, middle), (near, middle))):
        image = render(base.replace(sun_azimuth=azimuth), 0).mean(2)
        assert image[bright].mean() > image[dark].mean() + 60


def test_colour_runs_from_grey_to_red():
    base = CraterParameters(noise=0.0)
    ratio = [render(base.replace(colour=c), 0, 64)[..., 0].mean() / render(base.replace(colour=c), 0, 64)[..., 2].mean() for c in (0.0, 0.33, 0.67, 1.0)]
    assert ratio == sorted(ratio) and ratio[0] < 1.05 and ratio[-1] > 1.8


def test_ghosts_cast_less_contrast_than_fresh_craters():
    fresh = pictures(40, kind="rayed", view="aerial", terrain="smooth plains")[1].mean(3).std((1, 2))
    ghost = pictures(40, kind="ghost", view="aerial", terrain="smooth plains")[1].mean(3).std((1, 2))
    assert np.median(ghost) < 0.6 * np.median(fresh)


def test_smooth_pictures_patches_have_few_components():
    _, images = pictures(60, size=128)
    grey = images.mean(3).reshape(-1, 16, 8, 16, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64)
    eigen = np.sort(np.linalg.eigvalsh(np.cov(grey.T)))[::-1]
    kept = np.cumsum(eigen) / eigen.sum()
    assert kept[7] > 0.95 and kept[15] > 0.985


def test_parameters_survive_json():
    p = sample_parameters(np.random.default_rng(2))
    assert CraterParameters.from_dict(p.to_dict()) == p


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: CraterParameters(kind="square"), "square"),
        (lambda: CraterParameters(size=float("nan")), "size"),
        (lambda: CraterParameters(size=0.0), "size is 0.0; it must be above 0"),
        (lambda: CraterParameters(small_craters=-1.0), "small_craters is -1.0"),
        (lambda: CraterParameters(ellipticity=1.0), "ellipticity is 1.0"),
        (lambda: CraterParameters(gullies=2.5), "gullies is 2.5"),
        (lambda: CraterParameters(frost=1.5), "frost is 1.5; it is a share"),
        (lambda: CraterParameters(dune_spacing=0.0), "dune_spacing is 0.0"),
        (lambda: CraterParameters.from_dict({"colour_of_sky": 1.0}), "colour_of_sky"),
        (lambda: sample_parameters(np.random.default_rng(0), kidn="bowl"), "kidn"),
        (lambda: sample_parameters(np.random.default_rng(0), sensor="kodak"), "kodak"),
        (lambda: render_batch([CraterParameters()], [1, 2]), "seed"),
        (lambda: render_batch([CraterParameters()], [1], size=8), "32"),
        (lambda: render_batch([CraterParameters()], [-1]), "seed"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(InputError, match=word):
        call()


def test_speed_on_one_core():
    params, _ = pictures(2, size=128)
    rng = np.random.default_rng(1)
    params = [sample_parameters(rng) for _ in range(40)]
    rates = []
    for _ in range(3):  # the best of three: other work on the machine's cores slows this one
        start = time.process_time()
        render_batch(params, range(40))
        rates.append(40 / (time.process_time() - start))
        if rates[-1] > 40:
            break
    assert max(rates) > 40  # 75 to 110 on an idle core of 2020s hardware


def test_the_default_distribution_is_the_one_that_the_embedded_model_learned():
    """The weights in assets/models/crater-tiny and the reference set depend on it: a change here means training and rebuilding them."""
    rng = np.random.default_rng(11)
    drawn = [sample_parameters(rng) for _ in range(200)]
    assert [p.kind for p in drawn[:6]] == ["rampart", "pedestal", "complex", "bowl", "bowl", "ghost"]
    assert np.mean([p.size for p in drawn]) == pytest.approx(0.46029767707534075, abs=1e-9)
    assert np.mean([p.view == "aerial" for p in drawn]) == pytest.approx(0.65, abs=0.1)
    assert all(p.sensor == "none" and p.repose == 34.0 and p.hummocks == p.old_craters == p.massifs == 0.0 for p in drawn)


def test_sheet_has_one_row_per_word_and_names_a_bad_field(tmp_path, capsys):
    picture = sheet.sheet("rims", 2, 0, size=40)
    assert picture.size == (sheet.LABEL + 84, 42 * len(RIMS))
    assert sheet.main(["--field", "mood", "--out", str(tmp_path / "x.jpg")]) == 2
    assert "mood" in capsys.readouterr().err
