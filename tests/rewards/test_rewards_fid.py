"""Frechet distance against scipy and closed forms; the influence of an image against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from backend.rewards.fid import SHRINKAGE, frechet_credit, frechet_distance, moments, shrunk, transport_map
from backend.rewards.pool import principal_axes


def gaussian(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / d**0.5 + shift)


def by_scipy(x: np.ndarray, y: np.ndarray, intensity: float) -> float:
    """The textbook formula with scipy's matrix square root."""

    def covariance(rows):
        c = np.cov(rows.T)
        return (1 - intensity) * c + intensity * np.trace(c) / len(c) * np.eye(len(c))

    a, b = covariance(x), covariance(y)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b))))


@pytest.mark.parametrize("intensity", [0.0, SHRINKAGE])
def test_distance_equals_the_textbook_formula(intensity):
    x, y = gaussian(200, 6, 0), gaussian(150, 6, 1, shift=0.4)
    (mx, cx), (my, cy) = moments(x), moments(y)
    assert frechet_distance(mx, shrunk(cx, intensity), my, shrunk(cy, intensity)) == pytest.approx(by_scipy(x.numpy(), y.numpy(), intensity), rel=1e-7)


def test_distance_of_commuting_gaussians():
    # Diagonal covariances: |m|^2 + sum (s_a - s_b)^2.
    a, b = torch.tensor([1.0, 4.0, 0.0], dtype=torch.float64), torch.tensor([9.0, 4.0, 1.0], dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert frechet_distance(shift, a.diag(), torch.zeros(3, dtype=torch.float64), b.diag()) == pytest.approx(25 + 4 + 0 + 1, abs=1e-9)


def test_distance_to_itself_is_zero_even_where_singular():
    mean, covariance = moments(gaussian(4, 10, 2))
    assert frechet_distance(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-6)


def test_transport_map_carries_one_covariance_to_the_other():
    a, b = (moments(gaussian(50, 5, seed))[1] for seed in (3, 4))
    g = transport_map(a, b)
    np.testing.assert_allclose(g @ a @ g, b, atol=1e-10)
    np.testing.assert_allclose(g, g.T, atol=1e-10)


def relative_error(n: int, intensity: float = SHRINKAGE) -> float:
    """Of the credits of 16 images in a pool of n, against leaving each out."""
    d, count = 8, 16
    reference = gaussian(73, d, 5, shift=0.3)
    mean, covariance = moments(reference)
    covariance = shrunk(covariance)
    pool = gaussian(n, d, 6)

    def distance(rows: torch.Tensor) -> float:
        m, c = moments(rows)
        return frechet_distance(m, shrunk(c, intensity), mean, covariance)

    whole = distance(pool)
    expected = np.array([distance(torch.cat([pool[:i], pool[i + 1 :]])) - whole for i in range(n - count, n)])
    found = frechet_credit(pool, count, mean, covariance, intensity).total.numpy()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_first_order_error_falls_as_one_over_the_pool():
    pools = np.array([64, 128, 256, 512, 1024, 2048])
    errors = np.array([relative_error(int(n)) for n in pools])
    slope = np.polyfit(np.log(pools), np.log(errors), 1)[0]
    assert -1.4 < slope < -0.7
    assert errors[-1] < 0.01


def test_unshrunk_credit_is_the_influence_function():
    # r_i = -[2 (m - m_r)'(x - m) + (x - m)'(I - G)(x - m) - tr((I - G) S)], per image of a pool of n.
    n, d = 4000, 6
    pool, reference = gaussian(n, d, 7), gaussian(200, d, 8, shift=0.2)
    mean_r, cov_r = moments(reference)
    mean, covariance = moments(pool)
    gradient = torch.eye(d, dtype=torch.float64) - transport_map(covariance, cov_r)
    offset = pool[-32:] - mean
    influence = -(2 * offset @ (mean - mean_r) + ((offset @ gradient) * offset).sum(1) - (gradient * covariance).sum())
    found = frechet_credit(pool, 32, mean_r, cov_r, 0.0).total * n
    np.testing.assert_allclose(found, influence, atol=0.02 * float(influence.abs().max()))


def test_principal_axes_equal_numpy_and_never_exceed_the_rank():
    x = gaussian(5, 12, 9)
    projection = principal_axes(x, 32)
    assert projection.axes.shape == (12, 4)
    values = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1][:4]
    np.testing.assert_allclose(np.var(projection(x).numpy(), axis=0, ddof=1), values, rtol=1e-8)
