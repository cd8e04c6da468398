"""Credits of PAIRWISE, DPP, COVERAGE, VENDI, NOVELTY and the pointwise means against brute force; scores against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.neighbors import NearestNeighbors

from backend.config.schema import TrainConfig
from backend.rewards.base import MetricContext, pointwise_credit
from backend.rewards.coverage import coverage_credit, density, hard_coverage, membership, soft_coverage
from backend.rewards.dpp import dpp_credit, likelihood_matrix, mean_log_det
from backend.rewards.kernels import rbf, reference_radii, squared_distances
from backend.rewards.mmd import MMD
from backend.rewards.mmd_vendi import MMDVendi
from backend.rewards.novelty import neighbour_distances, novelty_credit, novelty_scores
from backend.rewards.pairwise import mean_distance, pairwise_credit
from backend.rewards.precision import precision_recall
from backend.rewards.queue import FeatureQueue
from backend.rewards.vendi import Vendi, leave_one_out_entropy, vendi_credit, vendi_score


def points(n: int, d: int = 5, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, size=(n, d)))


def without(x: torch.Tensor, i: int) -> torch.Tensor:
    return torch.cat([x[:i], x[i + 1 :]])


def kernel(x: torch.Tensor) -> torch.Tensor:
    return rbf(squared_distances(x, x), 1.4)


def brute_force(score, x: torch.Tensor) -> list[float]:
    return [score(x) - score(without(x, i)) for i in range(len(x))]


@pytest.mark.parametrize("n", [3, 8, 40])
def test_pairwise_distance_and_credit(n):
    x = points(n)
    distances = squared_distances(x, x).sqrt()
    assert mean_distance(distances) == pytest.approx(pdist(x).mean(), abs=1e-10)
    np.testing.assert_allclose(pairwise_credit(distances), brute_force(lambda r: pdist(r).mean(), x), atol=1e-8)


@pytest.mark.parametrize("n", [2, 8, 40])
def test_dpp_log_determinant_and_credit(n):
    x = points(n)

    def score(rows: torch.Tensor) -> float:
        return np.linalg.slogdet(0.999 * kernel(rows).numpy() + 0.001 * np.eye(len(rows)))[1] / len(rows)

    assert float(mean_log_det(likelihood_matrix(kernel(x)))) == pytest.approx(score(x), abs=1e-10)
    np.testing.assert_allclose(dpp_credit(likelihood_matrix(kernel(x))), brute_force(score, x), atol=1e-8)


def test_dpp_bounds():
    alike = torch.ones(6, 6, dtype=torch.float64)
    assert float(mean_log_det(likelihood_matrix(torch.eye(6, dtype=torch.float64)))) == pytest.approx(0, abs=1e-12)
    # One eigenvalue is 0.999 * 6 + 0.001, the five others 0.001.
    assert float(mean_log_det(likelihood_matrix(alike))) == pytest.approx((math.log(5.995) + 5 * math.log(0.001)) / 6, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_soft_coverage_and_credit(n):
    y = points(15, seed=1)
    radii = reference_radii(y, 3)
    x = points(n, seed=2, scale=1.2)
    x[0] = y[4]  # a membership of exactly one

    def score(rows: torch.Tensor) -> float:
        member = np.array([[2.0 ** -((np.linalg.norm(r - c) / s) ** 16) for c, s in zip(y.numpy(), radii.numpy(), strict=True)] for r in rows.numpy()]).reshape(len(rows), 15)
        return float(np.mean(1 - np.prod(1 - member, axis=0)))

    assert soft_coverage(membership(x, y, radii)) == pytest.approx(score(x), abs=1e-9)
    np.testing.assert_allclose(coverage_credit(membership(x, y, radii)), brute_force(score, x), atol=1e-8)


def test_coverage_credit_of_a_thousand_images_does_not_underflow_to_nonsense():
    y = points(15, seed=1)
    credit = coverage_credit(membership(points(1000, seed=3), y, reference_radii(y, 3)))
    assert torch.isfinite(credit).all()
    assert float(credit.min()) >= 0
    assert float(credit.sum()) <= 1


def test_hard_coverage_density_precision_recall_by_sklearn():
    x, y, k = points(30, seed=4, scale=1.3).numpy(), points(25, seed=5).numpy(), 3

    def radii(rows):
        return NearestNeighbors(n_neighbors=k + 1).fit(rows).kneighbors(rows)[0][:, k]

    across = np.linalg.norm(x[:, None] - y[None], axis=2)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    assert hard_coverage(tx, ty, k) == pytest.approx((across <= radii(y)).any(0).mean())
    assert density(tx, ty, k) == pytest.approx((across <= radii(y)).sum() / (k * len(x)))
    precision, recall = precision_recall(tx, ty, k)
    assert precision == pytest.approx((across <= radii(y)).any(1).mean())
    assert recall == pytest.approx((radii(x) >= across.T).any(1).mean())


def entropy_power(matrix: np.ndarray, order: float) -> float:
    """Vendi score from numpy's eigenvalues."""
    values = np.clip(np.linalg.eigvalsh(matrix / len(matrix)), 1e-300, None)
    if order == 1:
        return float(np.exp(-(values * np.log(values)).sum()))
    return float((values**order).sum() ** (1 / (1 - order)))


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.0])
def test_vendi_of_orthogonal_and_identical_members(order):
    assert vendi_score(torch.eye(9, dtype=torch.float64), order) == pytest.approx(9, abs=1e-9)
    # At q = 0.5 the rounding of the zero eigenvalues, 1e-17, counts as its root.
    assert vendi_score(torch.ones(9, 9, dtype=torch.float64), order) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("n", [3, 8, 64])
def test_vendi_score_and_credit(order, n):
    x = points(n, seed=n)
    expected = brute_force(lambda rows: entropy_power(kernel(rows).numpy(), order), x)
    assert vendi_score(kernel(x), order) == pytest.approx(entropy_power(kernel(x).numpy(), order), abs=1e-9)
    np.testing.assert_allclose(vendi_credit(kernel(x), order), expected, atol=1e-8)


def test_vendi_order_one_credit_of_near_duplicates():
    x = torch.cat([points(6, seed=1)] * 3) + 1e-6 * points(18, seed=2)
    expected = brute_force(lambda rows: entropy_power(kernel(rows).numpy(), 1), x)
    np.testing.assert_allclose(vendi_credit(kernel(x), 1.0), expected, atol=1e-7)


def test_leave_one_out_entropy_of_independent_members():
    # Without one of N orthogonal members N - 1 remain: log(N - 1).
    np.testing.assert_allclose(leave_one_out_entropy(torch.eye(7, dtype=torch.float64)), math.log(6), atol=1e-10)


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("n", [3, 8, 33])
def test_mmd_vendi_is_the_sum_and_its_credit_exact(order, n):
    config = TrainConfig(metric="MMD_VENDI", vendi_weight=0.3, vendi_order=order)
    context = MetricContext(points(12, seed=1), torch.zeros(12, 3, 8, 8), FeatureQueue(16, 5))
    metric, mmd, vendi = (cls(config, context) for cls in (MMDVendi, MMD, Vendi))
    x = points(n, seed=n + 1)
    assert metric.set_score(x) == pytest.approx(mmd.set_score(x) + 0.3 * vendi.set_score(x) / n, abs=1e-12)
    np.testing.assert_allclose(metric.set_credit(x).total, brute_force(metric.set_score, x), atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.floats(0.05, 5), st.integers(0, 9999), st.sampled_from([1.0, 2.0]))
def test_vendi_lies_between_one_and_n(n, scale, seed, order):
    score = vendi_score(kernel(points(n, seed=seed, scale=scale)), order)
    assert 1 - 1e-9 <= score <= n + 1e-9


@pytest.mark.parametrize(("n", "archived"), [(2, 5), (3, 0), (10, 0), (10, 30)])
def test_novelty_and_credit(n, archived):
    x, archive = points(n, seed=6), points(archived, seed=7)
    k = min(3, n + archived - 2)

    def score(rows: torch.Tensor) -> float:
        total = 0.0
        for i in range(len(rows)):
            others = torch.cat([without(rows, i), archive])
            total += float((others - rows[i]).norm(dim=1).sort().values[:k].mean())
        return total / len(rows)

    distances = neighbour_distances(x, archive)
    assert float(novelty_scores(distances, k).mean()) == pytest.approx(score(x), abs=1e-9)
    own, taken = novelty_credit(distances, k)
    np.testing.assert_allclose(own + taken, brute_force(score, x), atol=1e-8)
    assert float(taken.max()) <= 0


def test_credit_of_a_mean():
    scores = points(9, 1)[:, 0]
    np.testing.assert_allclose(pointwise_credit(scores), brute_force(lambda rows: float(rows.mean()), scores), atol=1e-12)
