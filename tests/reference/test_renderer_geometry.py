"""Depth, rim height and wall slope of the height field against published morphometry."""

import numpy as np
import pytest

from backend.reference.renderer import KINDS, CraterParameters, morphology, photometry, sample_parameters, scene
from backend.reference.renderer.parameters import fresh_depth_km, fresh_rim_km

SIZE = 192


def relief(p: CraterParameters, diameter: float, seed: int = 0) -> morphology.Relief:
    """The height field without noise, `diameter` in half frames."""
    rng = np.random.default_rng(seed)
    made = scene.make_scene(p, SIZE, rng)
    quiet = made._replace(**{name: getattr(made, name) * 0.0 for name in ("noise_a", "noise_b", "fine_a", "fine_b")})
    return morphology.craters(quiet, p, diameter, rng)


def measured(p: CraterParameters, diameter: float = 0.8, seed: int = 0) -> tuple[float, float, float]:
    """Depth / diameter (rim to floor), rim height / diameter, median slope of the wall in degrees."""
    r = relief(p, diameter, seed)
    rim = np.median(r.height[(r.radius > 0.98) & (r.radius < 1.04)])
    floor = np.percentile(r.height[r.radius < 0.9], 5)
    down, right = np.gradient(r.height, 2.0 / SIZE)
    wall = (r.radius > max(p.infill + 0.1, 0.6)) & (r.radius < 0.97)
    return (rim - floor) / diameter, rim / diameter, float(np.degrees(np.arctan(np.median(np.hypot(down, right)[wall]))))


def draws(count: int = 12, **fixed: object) -> list[CraterParameters]:
    rng = np.random.default_rng(7)
    fixed = {"view": "aerial", "interiors": "smooth floors", "size": 0.4, "centre_x": 0.0, "centre_y": 0.0} | fixed
    return [sample_parameters(rng, **fixed) for _ in range(count)]


@pytest.mark.parametrize("diameter_km, older_depth", [(2.0, 0.14 * 2.0**0.90), (5.0, 0.14 * 5.0**0.90), (12.0, 0.25 * 12.0**0.49), (30.0, 0.25 * 30.0**0.49)])
def test_fresh_depth_lies_above_the_older_estimate_for_all_minimally_degraded_craters(diameter_km, older_depth):
    """Garvin & Frawley 1998 (Geophys. Res. Lett. 25, 4405): 0.14 D^0.90 and 0.25 D^0.49 from the first MOLA tracks, craters less carefully chosen."""
    assert older_depth < fresh_depth_km(diameter_km) < 1.6 * older_depth


def test_rim_height_of_fresh_craters_is_a_few_percent_of_the_diameter():
    assert [0.009 < fresh_rim_km(d) / d < 0.06 for d in (1.0, 3.0, 6.0, 10.0, 40.0)] == [True] * 5


def test_the_height_field_has_such_a_rim_too():
    """Where the crater is fresh; in the unit of its diameter."""
    heights = [measured(p, seed=i)[1] for i, p in enumerate(draws(kind="bowl", rims="sharp", freshness=0.95))]
    assert min(heights) > 0.009 and max(heights) < 0.06  # as the formula above; the rounded crest takes some


@pytest.mark.parametrize("kind", ["bowl", "complex", "terraced", "pitted", "pedestal", "rampart", "rayed", "double", "infilled", "degraded"])
def test_the_height_field_has_the_depth_that_the_parameters_name_and_the_wall_can_hold(kind):
    for i, p in enumerate(draws(kind=kind, rims="worn" if kind == "degraded" else "sharp")):
        depth, _, _ = measured(p, seed=i)
        assert depth == pytest.approx(morphology.standing_depth(p), rel=0.25, abs=0.008)


@pytest.mark.parametrize(
    "kind, low, high",
    [
        ("bowl", 0.08, 0.24),  # Robbins & Hynek 2012: fresh simple craters near 0.2, modified ones down to half of it
        ("rayed", 0.10, 0.25),  # with a floor at half of the radius: the fill takes a third of the depth that a bowl's wall could hold
        ("rampart", 0.08, 0.24),
        ("double", 0.08, 0.24),
        ("pedestal", 0.08, 0.24),  # a bowl on a plateau
        ("chained", 0.05, 0.13),  # McEwen et al. 2005 (Icarus 176, 351): secondaries are about half as deep as primaries, near 0.1
        ("clustered", 0.05, 0.13),
        ("pitted", 0.03, 0.13),
        ("complex", 0.03, 0.13),
        ("terraced", 0.03, 0.13),
        ("degraded", 0.03, 0.13),
        ("infilled", 0.01, 0.06),
        ("ghost", 0.0, 0.04),
    ],
)
def test_depth_to_diameter_is_in_the_range_of_its_kind(kind, low, high):
    depths = [measured(p, seed=i)[0] for i, p in enumerate(draws(kind=kind))]
    assert low < np.median(depths) < high and max(depths) < 1.3 * high


def test_a_pedestal_crater_stands_on_a_plateau_above_the_plain():
    """Kadish & Head 2011 (Icarus 215, 34): pedestals stand some 50 m above the plain, less than a tenth of the diameter of a crater of a few kilometres."""
    p = draws(1, kind="pedestal")[0]
    r = relief(p, 0.5)
    plateau = np.median(r.height[(r.radius > 1.3) & (r.radius < 1.6)])
    plain = np.median(r.height[r.radius > 2.6])
    assert 0.03 < (plateau - plain) / 0.5 < 0.09


def test_a_rampart_rises_at_the_edge_of_its_lobes():
    """Mouginis-Mark & Baloga 2006 (Meteorit. Planet. Sci. 41, 1469): the distal ridge is higher than the ejecta sheet behind it."""
    p = draws(1, kind="rampart", ejecta=0.0)[0]
    r = relief(p, 0.5)
    order = np.argsort(r.radius.ravel())
    ridge = np.percentile(r.height[(r.radius > 1.5) & (r.radius < 2.3)], 98)
    sheet = np.median(r.height[(r.radius > 1.35) & (r.radius < 1.5)])
    plain = np.median(r.height.ravel()[order][-500:])
    assert ridge > sheet + 0.2 * (sheet - plain) > plain


def test_central_peak_and_pit_rise_above_and_sink_below_the_floor():
    """Central peaks reach a share of the depth and stay below the rim."""
    for kind, sign in (("complex", 1), ("pitted", -1)):
        p = draws(1, kind=kind, freshness=0.8)[0]
        r = relief(p, 0.9)
        centre = r.height[r.radius < 0.05].mean()
        floor = np.median(r.height[(r.radius > 0.36) & (r.radius < 0.44)])
        share = sign * (centre - floor) / (p.depth_ratio * 0.9)
        assert 0.2 < share < 0.8


def test_kinds_of_several_craters_have_several_floors():
    for kind, low, high in (("double", 2, 2), ("chained", 4, 6), ("clustered", 6, 9)):
        p = draws(1, kind=kind)[0]
        count = len(morphology.layout(p, 0.4, np.random.default_rng(3)))
        assert low <= count <= high


@pytest.mark.parametrize("sensor", ["none", "themis"])
def test_walls_stay_near_the_angle_of_repose(sensor):
    """Fresh walls stand at about the angle of repose of loose rock, 25 to 35 degrees."""
    for i, p in enumerate(draws(16, sensor=sensor, kind="bowl", rims="sharp")):
        slope = measured(p.replace(irregularity=0.0, hummocks=0.0, old_craters=0.0), seed=i)[2]
        assert 14.0 < slope < 37.0


@pytest.mark.parametrize("kind", KINDS)
def test_no_wall_is_steeper_than_loose_rock_lies_and_no_rim_higher_than_published(kind):
    """Rims of fresh craters stand 1 to 6 % of the diameter above the plain (as above); a pedestal's stands on its plateau, and old ones are worn away."""
    for i, p in enumerate(draws(kind=kind)):
        _, rim, slope = measured(p, seed=i)
        assert slope < 37.0 and -0.005 < rim < (0.12 if kind == "pedestal" else 0.06)


def test_old_craters_are_shallower_and_rounder_than_young_ones():
    young, old = (np.array([measured(p, seed=i)[:2] for i, p in enumerate(draws(kind="bowl", freshness=f, rims=r))]).mean(0) for f, r in ((0.95, "sharp"), (0.3, "worn")))
    assert old[0] < 0.7 * young[0] and old[1] < 0.6 * young[1]


def test_ejecta_thins_as_the_cube_of_the_distance():
    """McGetchin et al. 1973: thickness ∝ (r/R)^-3."""
    r = np.linspace(1.3, 3.0, 50, dtype=np.float32)
    z = morphology.profile(r, CraterParameters(freshness=1.0, infill=0.0), 1.0, 0.2, 0.04)
    slope = np.polyfit(np.log(r), np.log(z), 1)[0]
    assert slope == pytest.approx(-3.0, abs=0.05)


def test_shadow_of_a_wall_is_as_long_as_trigonometry_says():
    """A step of height h under sun elevation e shades h / tan e beyond it."""
    spacing, height, elevation = 2.0 / 128, 0.2, 30.0
    field = np.zeros((128, 128), np.float32)
    field[:, :40] = height
    shade = photometry.cast_shadow(field, spacing, 180.0, elevation)
    length = (shade[64, 40:] > 0.5).sum() * spacing
    assert length == pytest.approx(height / np.tan(np.radians(elevation)), abs=5 * spacing)  # the march takes steps of 4 to 5 pixels there


def test_lunar_lambert_of_a_plane_against_the_formula():
    """McEwen 1991 (Icarus 92, 298), plane tilted by 20 degrees towards a sun at 40 degrees."""
    tilt, sun, mix = np.radians(20.0), np.radians(40.0), 0.55
    rows = np.arange(64, dtype=np.float32)
    field = np.broadcast_to(np.tan(tilt) * rows * 0.01, (64, 64)).astype(np.float32)
    light = photometry.reflectance(field, 0.01, 180.0, 40.0, ambient=0.0, lommel=mix)[32, 32]
    mu, mu0 = np.cos(tilt), np.sin(sun + tilt)

    def law(mu0: float, mu: float) -> float:
        return 2 * mix * mu0 / (mu0 + mu) + (1 - mix) * mu0

    assert light == pytest.approx(law(mu0, mu) / law(np.sin(sun), 1.0), rel=2e-3)
