"""MMD against scipy and sklearn, its credit against brute force, and the policy gradient that it gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from backend.rewards.kernels import MIXTURE, kernel_matrix, kth_distances, median_distance, squared_distances
from backend.rewards.mmd import centred_shortcut, mmd_credit, mmd_squared, mmd_value, reference_term


def sets(n: int, m: int = 20, d: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d))), torch.from_numpy(rng.normal(0.3, 1.2, size=(m, d)))


def by_loops(x: np.ndarray, y: np.ndarray, kernel) -> float:
    """Equation 3 of Gretton et al. (2012), term by term."""
    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


@pytest.mark.parametrize("kind", ["rbf", "rbf_mixture", "polynomial"])
def test_mmd_equals_the_definition_in_loops(kind):
    x, y = (t.numpy() for t in sets(7, 9))
    width = 1.7
    kernels = {
        "rbf": lambda a, b: math.exp(-((a - b) ** 2).sum() / (2 * width**2)),
        "rbf_mixture": lambda a, b: np.mean([math.exp(-((a - b) ** 2).sum() / (2 * (f * width) ** 2)) for f in MIXTURE]),
        "polynomial": lambda a, b: (a @ b / len(a) + 1) ** 3,
    }
    assert mmd_squared(torch.from_numpy(x), torch.from_numpy(y), kind, width) == pytest.approx(by_loops(x, y, kernels[kind]), abs=1e-12)


def test_kernels_and_distances_equal_sklearn_and_scipy():
    x, y = sets(11, 13, 8)
    np.testing.assert_allclose(squared_distances(x, y).sqrt(), cdist(x, y), atol=1e-10)
    np.testing.assert_allclose(kernel_matrix(x, y, "rbf", 1.3), rbf_kernel(x, y, gamma=1 / (2 * 1.3**2)), atol=1e-12)
    np.testing.assert_allclose(kernel_matrix(x, y, "polynomial", 1.0), polynomial_kernel(x, y, degree=3, gamma=1 / 8, coef0=1), atol=1e-12)
    distances = np.sort(cdist(y, y), axis=1)
    np.testing.assert_allclose(kth_distances(squared_distances(y, y), 3, exclude_self=True), distances[:, 3], atol=1e-7)


def test_median_distance_of_a_line():
    # Distances of 0, 1, 3: {1, 2, 3}.
    assert median_distance(torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)) == 2.0


@pytest.mark.parametrize("kind", ["rbf", "rbf_mixture", "polynomial"])
@pytest.mark.parametrize("n", [3, 4, 17, 64])
def test_credit_equals_brute_force(kind, n):
    x, y = sets(n, seed=n)
    constant = reference_term(y, kind, 1.5)

    def score(rows: torch.Tensor) -> float:
        return float(mmd_value(kernel_matrix(rows, rows, kind, 1.5), kernel_matrix(rows, y, kind, 1.5), constant))

    credit = mmd_credit(kernel_matrix(x, x, kind, 1.5), kernel_matrix(x, y, kind, 1.5)).total
    expected = [score(x) - score(torch.cat([x[:i], x[i + 1 :]])) for i in range(n)]
    np.testing.assert_allclose(credit, expected, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12), st.integers(0, 10_000))
def test_credits_add_to_zero_and_follow_permutations(n, seed):
    x, y = sets(n, seed=seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    credit = mmd_credit(kernel_matrix(x, x, "rbf_mixture", 1.0), kernel_matrix(x, y, "rbf_mixture", 1.0)).total
    shuffled = mmd_credit(kernel_matrix(x[order], x[order], "rbf_mixture", 1.0), kernel_matrix(x[order], y, "rbf_mixture", 1.0)).total
    assert abs(float(credit.sum())) < 1e-12
    np.testing.assert_allclose(shuffled, credit[order], atol=1e-12)


# A toy policy: x = s z, z standard normal, with log s to learn; reference on four points; RBF of width h.
REFERENCE = torch.tensor([-1.5, -0.5, 0.4, 2.0], dtype=torch.float64)
WIDTH, SPREAD = 0.8, 0.6


def expected_score_gradient() -> float:
    """d/d log s of E R(X), from the closed forms of Gaussian integrals over an RBF kernel; the same for every N >= 2."""
    log_s = torch.tensor(math.log(SPREAD), dtype=torch.float64, requires_grad=True)
    variance = torch.exp(2 * log_s)
    near = (WIDTH / (WIDTH**2 + variance).sqrt() * torch.exp(-(REFERENCE**2) / (2 * (WIDTH**2 + variance)))).mean()
    apart = WIDTH / (WIDTH**2 + 2 * variance).sqrt()
    return float(torch.autograd.grad(2 * near - apart, log_s)[0])


def expected_policy_gradient(credit, n: int) -> float:
    """E sum_i D_i d log pi(x_i) / d log s by Gauss-Hermite quadrature.

    The credit is linear in the kernel values, so the expectation goes inside: with g_i = z_i^2 - 1, E[k(x_i, y_j) g_i] and
    E[k(x_i, x_l) g_i] are integrals over one and two variables, and every kernel value without x_i has expectation zero
    against g_i.
    """
    z, weight = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(80))
    weight = weight / weight.sum()
    x = SPREAD * z
    gain = weight * (z**2 - 1)
    to_reference = (gain[:, None] * torch.exp(-((x[:, None] - REFERENCE) ** 2) / (2 * WIDTH**2))).sum(0)
    to_other = gain @ torch.exp(-((x[:, None] - x) ** 2) / (2 * WIDTH**2)) @ weight
    within, across = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, len(REFERENCE), dtype=torch.float64)
    across[0] = to_reference
    within[0, 1:] = within[1:, 0] = to_other
    return n * float(credit(within, across)[0])


@pytest.mark.parametrize("n", [3, 4, 8, 32])
def test_policy_gradient_equals_the_gradient_of_the_expected_score(n):
    assert expected_policy_gradient(lambda w, a: mmd_credit(w, a).total, n) == pytest.approx(expected_score_gradient(), rel=1e-8)


@pytest.mark.parametrize(("n", "least"), [(3, 0.5), (4, 0.3), (8, 0.15), (32, 0.03)])
def test_the_centred_shortcut_fails_the_same_test(n, least):
    truth = expected_score_gradient()
    # Even with its overall factor (N-1)/N forgiven, repulsion and attraction are out of proportion.
    biased = expected_policy_gradient(centred_shortcut, n) * n / (n - 1)
    assert abs(biased / truth - 1) > least


def test_policy_gradient_by_sampling_agrees_with_the_quadrature():
    generator = torch.Generator().manual_seed(3)
    n, groups = 4, 60_000
    z = torch.randn(groups, n, dtype=torch.float64, generator=generator)
    x = SPREAD * z
    within = torch.exp(-((x[:, :, None] - x[:, None]) ** 2) / (2 * WIDTH**2))
    across = torch.exp(-((x[:, :, None] - REFERENCE) ** 2) / (2 * WIDTH**2))
    credit = torch.func.vmap(lambda w, a: mmd_credit(w, a).total)(within, across)
    samples = (credit * (z**2 - 1)).sum(1)
    error = float(samples.std() / groups**0.5)
    assert abs(float(samples.mean()) - expected_score_gradient()) < 4 * error
    assert error < 0.1 * abs(expected_score_gradient())
