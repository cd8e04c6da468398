"""Geometry of what lies in, on and around craters: gullies, dunes, layers, frost, streaks, pairs, chains, small craters."""

from __future__ import annotations

import numpy as np
import pytest

from backend.reference.renderer import CraterParameters, morphology, render_batch, scene, terrain

SIZE, DIAMETER = 192, 0.9
SPACING = 2.0 / SIZE


def quiet_scene(p: CraterParameters) -> morphology.Scene:
    """Coordinates without random fields."""
    made = scene.make_scene(p, SIZE, np.random.default_rng(0))
    return made._replace(**{name: getattr(made, name) * 0.0 for name in ("noise_a", "noise_b", "fine_a", "fine_b")})


def inside(**fixed: object) -> tuple[CraterParameters, morphology.Relief, tuple[np.ndarray, ...]]:
    """A round crater and what `interior` adds to it: height, albedo, sand, frost."""
    p = CraterParameters(**{"kind": "bowl", "size": 0.45, "centre_x": 0.0, "centre_y": 0.0, "infill": 0.45, "irregularity": 0.0, "ellipticity": 0.0, "orientation": 0.0} | fixed)
    quiet = quiet_scene(p)
    relief = morphology.craters(quiet, p, DIAMETER, np.random.default_rng(0))
    return p, relief, terrain.interior(quiet, p, relief, DIAMETER)


def test_gullies_cut_the_wall_alone_and_run_down_it():
    """Malin & Edgett 2000 (Science 288, 2330): channels on the upper wall, tens of metres at most where the crater is hundreds deep."""
    p, relief, (height, albedo, _, _) = inside(interiors="gullied walls")
    assert height.max() <= 0 and (height[relief.floor > 0.99] > -1e-6).all() and (height[relief.radius > 1.1] > -1e-6).all()
    assert 0.02 < -height.min() / (p.depth_ratio * DIAMETER) < 0.25
    ring = np.abs(relief.radius - 0.8) < 0.02
    order = np.argsort(relief.angle[ring])
    deep = (height[ring][order] < 0.5 * height[ring].min()).astype(int)
    assert 20 <= (np.diff(deep) == 1).sum() <= 30  # about twenty-six channels around the wall
    assert albedo[height < 0.5 * height.min()].max() < 0


@pytest.mark.parametrize("gullies, gully_depth", [(9.0, 0.011), (40.0, 0.02)])
def test_as_many_gullies_as_asked_and_as_deep(gullies, gully_depth):
    _, relief, (height, _, _, _) = inside(interiors="gullied walls", gullies=gullies, gully_depth=gully_depth)
    assert -height.min() == pytest.approx(gully_depth * DIAMETER, rel=0.05)
    ring = np.abs(relief.radius - 0.8) < 0.02
    deep = (height[ring][np.argsort(relief.angle[ring])] < 0.5 * height[ring].min()).astype(int)
    assert abs((np.diff(deep) == 1).sum() - gullies) <= 1


def test_dunes_are_as_high_and_as_far_apart_as_asked():
    fields = [CraterParameters(terrain="dune fields", roughness=0.0, **own) for own in ({}, {"dune_height": 2.0, "dune_spacing": 1.5})]
    rows = [terrain.plain(quiet_scene(p), p, SPACING)[0][SIZE // 2] for p in fields]
    assert np.ptp(rows[1]) == pytest.approx(2.0 * np.ptp(rows[0]), rel=0.03)
    crests = [np.argmax(np.abs(np.fft.rfft(row - row.mean()))) for row in rows]
    assert crests[0] / crests[1] == pytest.approx(1.5, rel=0.15)
    floors = [np.ptp(inside(interiors="dune floors", dune_height=height)[2][0]) for height in (1.0, 0.5)]
    assert floors[1] == pytest.approx(0.5 * floors[0], rel=1e-3)


def test_layers_are_as_high_and_as_many_as_asked():
    steps = [terrain.plain(quiet_scene(p), p, SPACING)[0] for p in (CraterParameters(terrain="layered terrain", roughness=0.0, layer_height=height) for height in (0.011, 0.022))]
    assert np.allclose(steps[1], 2.0 * steps[0])
    for layers in (2.0, 4.0, 5.0):
        _, relief, (_, bands, _, _) = inside(interiors="layered walls", wall_layers=layers)
        outward = bands[SIZE // 2, SIZE // 2 :][((relief.wall > 0.5) & (relief.radius < 1.0))[SIZE // 2, SIZE // 2 :]]
        changes = int((np.diff(np.sign(outward)) != 0).sum())
        assert changes == pytest.approx(2 * 0.87 * layers, abs=1.1)  # a light and a dark band each; seven eighths of the depth are wall


def test_frost_hides_as_much_ground_as_asked_and_streaks_have_the_contrast_asked():
    pictures = render_batch([CraterParameters(interiors="frosted floors", infill=0.6, colour=1.0, frost=share) for share in (0.0, 0.4, 1.0)], [3] * 3, size=64).astype(float)
    blue = pictures[:, 28:36, 28:36, 2].mean((1, 2))
    assert blue[0] + 20 < blue[1] < blue[2] - 20
    weak, strong = (np.ptp(terrain.streaks(quiet_scene(CraterParameters()), 0.0, contrast)) for contrast in (0.1, 0.3))
    assert strong == pytest.approx(3 * weak)


def test_dunes_are_gentle_to_windward_and_below_repose_to_lee():
    """Transverse dunes: lee slopes at most near 34 degrees; heights a tenth of the wavelength or less (Lancaster 1995, Geomorphology of Desert Dunes)."""
    p = CraterParameters()
    quiet = quiet_scene(p)
    field = terrain.dunes(quiet, 0.0, 0.21, 0.013)
    row = field[SIZE // 2]
    step = np.diff(row) / SPACING
    assert (step > 1e-6).sum() > 1.7 * (step < -1e-6).sum()  # the windward side is the longer one
    assert 5 < np.degrees(np.arctan(np.abs(step).max())) < 36
    spectrum = np.abs(np.fft.rfft(row - row.mean()))
    assert 2.0 / np.argmax(spectrum) == pytest.approx(0.21, rel=0.15)
    assert np.ptp(row) < 0.1 * 0.21
    _, relief, (height, _, sand, _) = inside(interiors="dune floors")
    assert np.array_equal(sand, relief.floor) and np.ptp(height[relief.floor > 0.9]) > 0.005 and np.abs(height[relief.radius > 1.0]).max() == 0


def test_layers_are_treads_and_risers_of_one_height():
    p = CraterParameters(terrain="layered terrain", orientation=0.0, roughness=0.0)
    height, albedo, _ = terrain.plain(quiet_scene(p), p, SPACING)
    row = height[SIZE // 2]
    slopes = np.abs(np.diff(row)) / SPACING
    flat = slopes < 0.25 * slopes.max()
    assert 0.3 < flat.mean() < 0.8  # neither a ramp nor a cliff
    levels = row[:-1][flat]
    treads = [part.mean() for part in np.split(levels, np.nonzero(np.diff(levels) > 0.011)[0] + 1)]
    assert np.diff(treads)[1:-1] == pytest.approx(0.022, rel=0.1)
    assert np.ptp(albedo[SIZE // 2]) > 0.15 and np.ptp(albedo[:, SIZE // 2]) < 1e-6  # bands follow the steps
    _, relief, (change, bands, _, _) = inside(interiors="layered walls")
    assert np.abs(change[relief.wall == 0]).max() == 0 and np.ptp(bands[relief.wall > 0.9]) > 0.2


def test_frost_lies_where_its_word_says():
    _, relief, (_, _, _, floor) = inside(interiors="frosted floors")
    _, _, (_, _, _, rim) = inside(interiors="smooth floors", rims="frosted")
    assert floor[relief.floor > 0.99].min() > 0.9 and floor[relief.radius > 1.0].max() == 0
    assert rim[np.abs(relief.radius - 1.0) < 0.02].mean() > 0.5 and rim[relief.radius < 0.6].max() < 0.05 and rim[relief.radius > 1.5].max() < 0.05
    assert max(inside(interiors="smooth floors")[2][3].max(), 0) == 0


@pytest.mark.parametrize("orientation", [0.0, 60.0])
def test_streaks_are_stretched_along_the_wind(orientation):
    p = CraterParameters(terrain="streaked plains", orientation=orientation)
    pattern = terrain.streaks(quiet_scene(p), np.radians(orientation), p.streaks)
    down, right = np.gradient(pattern)
    along = right * np.cos(np.radians(orientation)) - down * np.sin(np.radians(orientation))  # rows run downward
    across = right * np.sin(np.radians(orientation)) + down * np.cos(np.radians(orientation))
    assert np.abs(across).mean() > 20 * np.abs(along).mean()


def test_a_pair_overlaps_a_chain_is_straight_and_its_members_touch():
    """Doublets: Melosh & Stansberry 1991 (Icarus 94, 171). Secondary chains: near-contact craters of like size in line (Oberbeck & Morrison 1974)."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p = CraterParameters(kind="double", orientation=30.0)
        (x0, y0, first), (x1, y1, second) = morphology.layout(p, 0.4, rng)
        assert 0.6 < np.hypot(x1 - x0, y1 - y0) / first < 1.0 and 0.7 < second / first <= 1.0
        assert np.degrees(np.arctan2(y1 - y0, x1 - x0)) == pytest.approx(30.0)
        chain = np.array(morphology.layout(p.replace(kind="chained"), 0.2, rng))
        turned = (chain[:, 0] + 1j * chain[:, 1]) * np.exp(-1j * np.radians(30.0))
        assert np.ptp(turned.imag) < 0.12 and np.abs(np.diff(turned.real)).mean() / 0.2 == pytest.approx(0.78, abs=0.15)
        cluster = np.array(morphology.layout(p.replace(kind="clustered"), 0.2, rng))
        assert np.linalg.eigvalsh(np.cov(cluster[:, :2].T))[0] > 0.01  # a field, not a line


def test_small_craters_follow_a_power_law(monkeypatch):
    """Cumulative number ∝ D^-2 between the smallest and the largest drawn (equilibrium, Moore et al. 1980)."""
    radii = []
    real = terrain.stamp_height
    monkeypatch.setattr(terrain, "stamp_height", lambda radius, age, sub: (radii.append(radius / 4), real(radius, age, sub))[1])
    height = terrain.small_craters(np.zeros((128, 128), np.float32), CraterParameters(small_craters=4000.0), np.random.default_rng(0), 2.0 / 128)
    radii = np.array(radii)
    assert len(radii) == pytest.approx(4000, abs=300) and radii.min() == pytest.approx(1.5, abs=0.13) and radii.max() == 11.0
    assert (radii > 4.125).sum() / (radii > 2.125).sum() == pytest.approx((2.125 / 4.125) ** 2, abs=0.04)
    assert height.min() < -0.01


def test_a_small_crater_has_the_depth_and_rim_of_a_fresh_bowl():
    """Depth a fifth and rim about a twenty-fifth of the diameter when fresh, less with age."""
    fresh, old = (terrain.stamp_height(32, age, 0) for age in (0, 3))
    assert 0.15 < np.ptp(fresh) < 0.22 and 0.015 < fresh.max() < 0.05
    assert np.ptp(old) < 0.5 * np.ptp(fresh)
