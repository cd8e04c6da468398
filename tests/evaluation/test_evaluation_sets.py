"""Diversity and manifold measures against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel as sklearn_rbf
from sklearn.neighbors import NearestNeighbors

from backend.evaluation import diversity, manifold


def test_vendi_of_equal_and_of_orthogonal_items():
    for order in (0.5, 1, 2, 3):
        assert diversity.vendi(np.ones((5, 5)), order) == pytest.approx(1, rel=1e-6)
        assert diversity.vendi(np.eye(5), order) == pytest.approx(5, rel=1e-6)


def test_vendi_of_two_groups_is_two():
    kernel = np.kron(np.eye(2), np.ones((6, 6)))
    assert diversity.vendi(kernel) == pytest.approx(2)
    assert diversity.vendi(kernel, 2) == pytest.approx(2)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1))
def test_vendi_of_a_pair_is_the_entropy_of_its_eigenvalues(similarity):
    p = np.array([(1 + similarity) / 2, (1 - similarity) / 2])
    p = p[p > 1e-12]
    assert diversity.vendi(np.array([[1, similarity], [similarity, 1]])) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_rbf_kernel_is_sklearns():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 4))
    assert diversity.rbf_kernel(a, b, 1.7) == pytest.approx(sklearn_rbf(a, b, gamma=1 / (2 * 1.7**2)))


def test_median_distance_by_brute_force():
    points = np.random.default_rng(1).normal(size=(9, 3))
    distances = [np.linalg.norm(points[i] - points[j]) for i in range(9) for j in range(i)]
    assert diversity.median_distance(points) == pytest.approx(np.median(distances))
    assert diversity.median_distance(np.zeros((4, 2))) == 1.0


def test_partitions_are_disjoint_and_vary():
    subsets = diversity.partitions(100, 12, np.random.default_rng(2), repeats=3)
    assert subsets.shape == (3, 8, 12)
    assert all(len(set(part.ravel())) == 96 for part in subsets)
    assert not np.array_equal(subsets[0], subsets[1])


def test_subset_size_keeps_eight_disjoint_subsets():
    assert diversity.subset_size(1024) == 73
    assert diversity.subset_size(64) == 8
    assert diversity.subset_size(5) == 2


def test_subset_scores_order_narrow_and_wide_sets():
    generator = np.random.default_rng(3)
    narrow, wide = 0.3 * generator.normal(size=(160, 8)), generator.normal(size=(160, 8))
    subsets = diversity.partitions(160, 20, generator, repeats=2)
    bandwidth = diversity.median_distance(wide)
    assert diversity.subset_vendi(narrow, subsets, bandwidth).max() < diversity.subset_vendi(wide, subsets, bandwidth).min()
    assert diversity.subset_spread(narrow, subsets).mean() == pytest.approx(0.3, rel=0.03)


def test_radii_equal_sklearn_neighbours():
    points = np.random.default_rng(4).normal(size=(50, 5))
    distances, _ = NearestNeighbors(n_neighbors=4).fit(points).kneighbors(points)
    assert manifold.radii(points) == pytest.approx(distances[:, 3])


def test_precision_recall_coverage_by_brute_force():
    generator = np.random.default_rng(5)
    real, generated = generator.normal(size=(40, 2)), generator.normal(size=(30, 2)) + 1
    radius_real, radius_generated = manifold.radii(real), manifold.radii(generated)
    for i, point in enumerate(generated):
        assert manifold.precision(generated, real)[i] == any(np.linalg.norm(point - y) <= r for y, r in zip(real, radius_real, strict=True))
        assert manifold.realism(generated, real)[i] == pytest.approx(max(np.log(r / np.linalg.norm(point - y)) for y, r in zip(real, radius_real, strict=True)))
    for j, point in enumerate(real):
        assert manifold.recall(generated, real)[j] == any(np.linalg.norm(point - x) <= r for x, r in zip(generated, radius_generated, strict=True))
        assert manifold.coverage(generated, real)[j] == any(np.linalg.norm(point - x) <= radius_real[j] for x in generated)


def test_mode_collapse_keeps_precision_and_loses_recall():
    generator = np.random.default_rng(6)
    real = generator.normal(size=(300, 3))
    collapsed = real[0] + 0.01 * generator.normal(size=(100, 3))
    assert manifold.precision(collapsed, real).mean() == 1
    assert manifold.recall(collapsed, real).mean() < 0.05


def test_realism_tells_a_small_change_sooner_than_precision_and_a_copy_is_not_infinite():
    rng = np.random.default_rng(0)
    real, base = rng.normal(size=(400, 8)), 1.3 * rng.normal(size=(300, 8))
    worse = 1.02 * base
    change = manifold.realism(worse, real) - manifold.realism(base, real)
    caught = manifold.precision(worse, real) - manifold.precision(base, real)
    assert change.mean() < -5 * change.std() / 300**0.5 and change.mean() / change.std() < 2 * caught.mean() / caught.std() < 0
    assert ((manifold.realism(base, real) >= 0) == (manifold.precision(base, real) == 1)).all()
    assert np.isfinite(manifold.realism(real[:3], real)).all()


def test_memorisation_tells_copies_from_fresh_samples():
    generator = np.random.default_rng(7)
    training, held_out, fresh = generator.normal(size=(3, 400, 4))
    copies = training[:200] + 1e-3 * generator.normal(size=(200, 4))
    assert manifold.memorisation(copies, training, held_out)["close"].mean() > 0.95
    result = manifold.memorisation(fresh, training, held_out)
    assert result["distance"].mean() == pytest.approx(1, abs=0.1)
    assert result["close"].mean() < 0.05


def test_lonely_points_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        manifold.radii(np.zeros((1, 3)))
