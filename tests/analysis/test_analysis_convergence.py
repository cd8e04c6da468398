"""Slopes, their intervals and the words drawn from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from backend.analysis.convergence import FLAT, LEARNING, PLATEAUING, plateau_episode, slope_interval, stability, trend


def autoregressive(generator: np.random.Generator, n: int, rho: float) -> np.ndarray:
    """AR(1) noise with unit innovations, past its start-up."""
    noise = generator.normal(size=n + 50)
    for i in range(1, n + 50):
        noise[i] += rho * noise[i - 1]
    return noise[50:]


def test_slope_equals_least_squares():
    y = np.random.default_rng(0).normal(size=40) + 0.3 * np.arange(40)
    expected = stats.linregress(np.arange(40), y)
    slope, low, high = slope_interval(y)
    assert slope == pytest.approx(expected.slope, rel=1e-12)
    assert low < slope < high


def test_missing_scores_are_left_out_with_their_step():
    y = 2.0 * np.arange(30)
    y[[3, 17]] = np.nan
    assert slope_interval(y)[0] == pytest.approx(2.0)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_interval_covers_the_true_slope_under_autocorrelation(rho):
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        _, low, high = slope_interval(0.02 * np.arange(100) + autoregressive(generator, 100, rho))
        covered += low <= 0.02 <= high
    assert 0.90 <= covered / 300 <= 0.995


def test_plain_least_squares_would_not_cover():
    """The reason for the correction: ignoring autocorrelation, far too few intervals hold the truth."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        fit = stats.linregress(np.arange(100), 0.02 * np.arange(100) + autoregressive(generator, 100, 0.6))
        covered += abs(fit.slope - 0.02) <= stats.t.ppf(0.975, 98) * fit.stderr
    assert covered / 200 < 0.85


@pytest.mark.parametrize(
    ("curve", "noise", "state", "share"),
    [
        (lambda t: 0.01 * t, 0.3, LEARNING, 0.95),
        (lambda t: 0.0 * t, 0.3, FLAT, 0.9),
        (lambda t: -0.01 * t, 0.3, FLAT, 0.99),
        (lambda t: 0.01 * np.minimum(t, 140), 0.1, PLATEAUING, 0.9),
    ],
)
def test_states(curve, noise, state, share):
    generator = np.random.default_rng(3)
    t = np.arange(200)
    states = [trend(curve(t) + generator.normal(size=200) * noise).state for _ in range(100)]
    assert states.count(state) / 100 >= share


def test_few_scores_are_given_the_benefit_of_the_doubt():
    result = trend([1.0, 0.9, 0.8])
    assert result.state == LEARNING
    assert math.isinf(result.low)
    assert trend([]).slope == 0.0


def test_probes_that_rise_are_learning_that_the_groups_do_not_show():
    noise = np.random.default_rng(8).normal(size=60)
    for silent in ([], [0.0, 1.0, 2.0], [0.0, 1.0, 3.0, 2.0], [0.0, 2.0, 2.0, 2.0], [0.0, 1.0, 2.0, math.nan], [2.0, 1.0, 0.0, 3.0]):
        assert trend(noise, silent).state == FLAT
    assert trend(noise, [0.0, 1.0, 2.0, 3.0]).state == trend(noise, [0.0, 2.0, 1.0, 3.0, 4.0, 5.0]).state == LEARNING


@pytest.mark.parametrize("count", [4, 9])
def test_probes_that_do_not_rise_seldom_look_as_if_they_did(count):
    generator = np.random.default_rng(5)
    states = [trend(0.3 * generator.normal(size=200), generator.normal(size=count)).state for _ in range(200)]
    assert states.count(FLAT) / 200 >= 0.88


def test_plateau_is_found_within_ten_episodes():
    generator = np.random.default_rng(4)
    t = np.arange(200)
    found = [plateau_episode(0.02 * np.minimum(t, 50) + generator.normal(size=200) * 0.1) for _ in range(20)]
    assert all(episode is not None and abs(episode - 50) <= 10 for episode in found)


@pytest.mark.parametrize("slope", [0.01, 0.0, -0.01])
def test_lines_have_no_plateau(slope):
    generator = np.random.default_rng(5)
    found = [plateau_episode(slope * np.arange(200) + generator.normal(size=200) * 0.2) for _ in range(20)]
    assert sum(episode is not None for episode in found) <= 1


@pytest.mark.parametrize("count", [399, 600, 800])
def test_a_slower_rise_is_no_plateau_whatever_the_bins(count):
    """Above 400 scores the search works on means over bins, which need not hold equally many."""
    generator, t = np.random.default_rng(7), np.arange(count)
    scores = 0.02 * np.minimum(t, count // 3) + 0.003 * np.maximum(t - count // 3, 0)
    assert sum(plateau_episode(scores + generator.normal(size=count) * 0.1) is not None for _ in range(10)) == 0


def test_plateau_in_a_very_long_run():
    t = np.arange(10_000)
    assert plateau_episode(np.minimum(t, 3000) * 1e-3 + np.random.default_rng(6).normal(size=10_000) * 0.1) == pytest.approx(3000, abs=100)


def test_stability_ratio_is_the_ratio_of_variances():
    generator = np.random.default_rng(7)
    result = stability(np.concatenate([generator.normal(5, 1, 3000), generator.normal(5, 1, 3000), generator.normal(5, 2, 3000)]))
    assert result["ratio"] == pytest.approx(4.0, rel=0.15)
    assert len(result["variance"]) == 10
    assert math.isnan(stability([1.0])["ratio"])
