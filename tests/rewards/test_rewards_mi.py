"""Nearest-neighbour entropies against Gaussian closed forms, mutual information against quadrature and sklearn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import digamma as scipy_digamma
from scipy.stats import norm
from sklearn.feature_selection import mutual_info_classif

from backend.rewards.mi import digamma, knn_entropy, log_ball_volume, mutual_information, pointwise_information


def normal(n: int, d: int = 1, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, scale, size=(n, d)))


@pytest.mark.parametrize(("d", "scale"), [(1, 1.0), (2, 0.3), (5, 2.0)])
def test_entropy_of_a_gaussian(d, scale):
    exact = d / 2 * math.log(2 * math.pi * math.e * scale**2)
    # The estimator's standard deviation is about sqrt(d / 2 + psi'(k)) / sqrt(n) = 0.03; five dimensions add a bias of that size.
    assert knn_entropy(normal(3000, d, scale=scale), 3) == pytest.approx(exact, abs=0.1)


def test_entropy_of_a_uniform_square():
    x = torch.from_numpy(np.random.default_rng(1).uniform(0, 4, size=(3000, 2)))
    assert knn_entropy(x, 3) == pytest.approx(math.log(16), abs=0.08)


def test_constants():
    assert digamma(7) == pytest.approx(scipy_digamma(7), abs=1e-12)
    assert log_ball_volume(3) == pytest.approx(math.log(4 / 3 * math.pi), abs=1e-12)


def exact_information(shift: float, scale: float, weight: float) -> float:
    """I(S; X) of N(shift, scale) with that weight against N(0, 1), by quadrature."""

    def integrand(x: float) -> float:
        p, q = norm.pdf(x, shift, scale), norm.pdf(x)
        mix = weight * p + (1 - weight) * q
        return sum(w * d * math.log(d / mix) for w, d in ((weight, p), (1 - weight, q)) if d > 1e-300)

    return quad(integrand, -15, 15, limit=300)[0]


@pytest.mark.parametrize(("shift", "scale", "n", "m"), [(0.0, 1.0, 1500, 1500), (1.5, 1.0, 1500, 1500), (0.0, 0.3, 1500, 1500), (2.5, 1.0, 2400, 600)])
def test_information_equals_quadrature(shift, scale, n, m):
    found = mutual_information(normal(n, shift=shift, scale=scale, seed=2), normal(m, seed=3), k=5)
    assert found == pytest.approx(exact_information(shift, scale, n / (n + m)), abs=0.035)


def test_information_equals_sklearns_estimator():
    x, y = normal(120, shift=1.0, seed=4), normal(90, seed=5)
    both, labels = torch.cat([x, y]).numpy(), np.repeat([0, 1], [120, 90])
    # Sklearn adds noise of 1e-10 of the standard deviation to break ties.
    assert mutual_information(x, y, 3) == pytest.approx(mutual_info_classif(both, labels, n_neighbors=3, random_state=0)[0], abs=1e-9)


def test_distinct_sets_carry_one_bit_and_copies_are_no_special_case():
    x, y = normal(60, 4, shift=50.0), normal(60, 4, seed=6)
    assert mutual_information(x, y, 3) == pytest.approx(math.log(2), abs=0.01)
    assert mutual_information(x[:1].repeat(60, 1), y, 3) == pytest.approx(math.log(2), abs=0.01)


def test_pointwise_information_tells_where_the_sets_differ():
    # Left of zero only the reference lives; far right only the generated.
    x, y = normal(800, shift=1.0, seed=7), normal(800, shift=-1.0, seed=8)
    information, _ = pointwise_information(x, y, 10)
    exact = norm.logpdf(x[:, 0], 1.0) - np.log((norm.pdf(x[:, 0], 1.0) + norm.pdf(x[:, 0], -1.0)) / 2)
    assert np.corrcoef(information, exact)[0, 1] > 0.9
    assert float(information.max()) <= math.log(2) + 0.01
