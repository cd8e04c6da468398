"""Paired bootstrap over evaluation units and training seeds (Efron and Tibshirani 1993, chapters 8 and 13)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, in the unit of the statistic."""

    estimate: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """JSON-able, with None for what is not finite."""
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}


def resample_counts(generator: np.random.Generator, resamples: int, size: int) -> np.ndarray:
    """How often each of `size` items is drawn in each resample: [R, size], rows sum to `size`."""
    return generator.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)


def replicate_means(values: np.ndarray, seed_counts: np.ndarray, unit_counts: np.ndarray) -> np.ndarray:
    """Means of the resampled table: values [S, U], counts [R, S] and [R, U] -> [R]."""
    weighted = np.einsum("rs,su,ru->r", seed_counts, values, unit_counts, optimize=True)
    return weighted / (seed_counts.sum(1) * unit_counts.sum(1))


def difference(tuned: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Default statistic: tuned minus base."""
    return tuned - base


def gap_closed(tuned: np.ndarray, base: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """(tuned - base) / (ceiling - base): 0 where nothing changed, 1 at the ceiling; NaN where the ceiling is the base."""
    gap = np.asarray(ceiling - base, dtype=np.float64)
    return np.divide(tuned - base, gap, out=np.full_like(gap, np.nan), where=np.abs(gap) > 1e-12)


def paired_bootstrap(
    tables: Sequence[np.ndarray],
    generator: np.random.Generator,
    statistic: Callable[..., np.ndarray] = difference,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic of means, the same units and seeds drawn for every table that has as many units as the first.

    Training seeds and evaluation units form a crossed table (every seed's policy draws the same units), so the two are
    resampled independently; one seed alone is not resampled, and the interval then speaks of that policy only. A table with another
    number of units (a ceiling of few photographs) is no pair of the others: its units are drawn apart.

    Args:
        tables: arrays [U], [1, U] or [S, U], or with a leading axis of random partitions [Q, ..., U] as
            `partition_tables` makes them; one value per unit (an image, or a disjoint block of images).
        generator: source of the resampling.
        statistic: takes the tables' means in order, as arrays, and returns the statistic for each.
        resamples: number of bootstrap replicates in all.
        level: coverage.
    """
    stacked = [_with_partitions(table) for table in tables]
    units = dict.fromkeys(table.shape[-1] for table in stacked)  # the first table's first
    partitions = max(table.shape[0] for table in stacked)
    seeds = max(table.shape[1] for table in stacked)
    share = math.ceil(resamples / partitions)
    replicates, estimates = [], []
    for index in range(partitions):
        chosen = [np.broadcast_to(t[index % t.shape[0]], (seeds, t.shape[-1])) for t in stacked]
        seed_counts = resample_counts(generator, share, seeds)
        unit_counts = {number: resample_counts(generator, share, number) for number in units}
        replicates.append(statistic(*[replicate_means(t, seed_counts, unit_counts[t.shape[-1]]) for t in chosen]))
        estimates.append([t.mean() for t in chosen])
    estimate = float(statistic(*[np.asarray(column).mean(keepdims=True) for column in zip(*estimates, strict=True)])[0])
    drawn = np.concatenate(replicates)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(estimate, float(low), float(high))


def _with_partitions(table: np.ndarray) -> np.ndarray:
    """[U], [S, U] or [Q, S, U] -> [Q, S, U]."""
    table = np.asarray(table, dtype=np.float64)
    while table.ndim < 3:
        table = table[None]
    return table


def seed_interval(estimates: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over training seeds with Student's t interval; infinite for a single seed."""
    values = np.asarray(estimates, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)
