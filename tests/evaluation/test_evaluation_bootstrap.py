"""Intervals against closed forms and their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from backend.evaluation.bootstrap import gap_closed, paired_bootstrap, replicate_means, resample_counts, seed_interval


def test_replicate_means_equal_explicit_resampling():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 7))
    seeds, units = resample_counts(generator, 5, 3), resample_counts(generator, 5, 7)
    for r in range(5):
        table = np.repeat(np.repeat(values, seeds[r].astype(int), axis=0), units[r].astype(int), axis=1)
        assert replicate_means(values, seeds, units)[r] == pytest.approx(table.mean())


def test_one_seed_interval_matches_normal_theory():
    generator = np.random.default_rng(1)
    base = generator.normal(size=800)
    tuned = base + 0.3 + 0.5 * generator.normal(size=800)
    interval = paired_bootstrap([tuned, base], generator, resamples=4000)
    error = (tuned - base).std(ddof=1) / math.sqrt(800)
    assert interval.estimate == pytest.approx((tuned - base).mean())
    assert interval.low == pytest.approx(interval.estimate - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(interval.estimate + 1.96 * error, abs=0.15 * error)


def test_pairing_is_what_makes_it_narrow():
    generator = np.random.default_rng(2)
    base = 10 * generator.normal(size=400)
    tuned = base + 0.1
    paired = paired_bootstrap([tuned, base], generator)
    unpaired = paired_bootstrap([tuned, generator.permutation(base)], generator)
    assert paired.high - paired.low < 1e-9
    assert unpaired.high - unpaired.low > 1.0


def test_seeds_widen_the_interval_as_their_variance_says():
    generator = np.random.default_rng(3)
    effects = generator.normal(size=(30, 1))
    tuned = effects + 0.01 * generator.normal(size=(30, 500))
    interval = paired_bootstrap([tuned, np.zeros((1, 500))], generator, resamples=4000)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * effects.std() / math.sqrt(30), rel=0.1)


def test_gap_closed_and_its_coverage():
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        base, ceiling = generator.normal(4, 0.3, (2, 14)) + np.array([[0], [2]])
        tuned = base + 1 + generator.normal(0, 0.2, 14)
        interval = paired_bootstrap([tuned, base, ceiling], generator, gap_closed, resamples=400)
        covered += interval.low <= 0.5 <= interval.high
    assert covered / 200 > 0.86
    assert math.isnan(gap_closed(np.ones(1), np.zeros(1), np.zeros(1))[0])


def test_a_table_of_other_units_is_drawn_apart():
    """Two photographs' subsets as a ceiling beside fourteen of each model: its own luck widens the interval."""
    generator = np.random.default_rng(0)
    base = generator.normal(4, 0.3, 14)
    tuned, ceiling = base + 1, np.array([5.5, 6.5])
    closed = paired_bootstrap([tuned, base, ceiling], np.random.default_rng(1), gap_closed)
    assert closed.estimate == pytest.approx(1 / (6 - base.mean()))
    alone = paired_bootstrap([tuned, base, np.array([6.0])], np.random.default_rng(1), gap_closed)
    assert closed.low < alone.low < closed.estimate < alone.high < closed.high


def test_seed_interval_is_students():
    values = [0.4, 0.6, 0.8]
    expected = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem(values))
    interval = seed_interval(values)
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert seed_interval([1.0]).to_dict() == {"estimate": 1.0, "low": None, "high": None}
