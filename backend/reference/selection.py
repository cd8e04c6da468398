"""Choose a few points that are spread over many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Features are rounded to this many standard deviations before anything is compared. The last bits of a network's
# output differ between processors; after rounding to integers every sum below is exact, so equal inputs give equal
# choices wherever they are made.
STEP = 1e-3
_CLIP = 12.0  # standard deviations; bounds the integers so that sums stay far below 2**53


def standardised(features: np.ndarray) -> np.ndarray:
    """Features `[N, D]` as float64 with mean 0 and standard deviation 1 per column.

    A column's standard deviation counts as at least a tenth of the median column's, so that one that hardly varies
    does not become the loudest.
    """
    values = np.asarray(features, dtype=np.float64)
    std = values.std(axis=0)
    floor = 0.1 * np.median(std[std > 0]) if (std > 0).any() else 1.0
    return (values - values.mean(axis=0)) / np.maximum(std, floor)


def quantise(features: np.ndarray) -> np.ndarray:
    """Standardise features `[N, D]` and round them to integers in units of `STEP`, kept as float64."""
    return np.round(np.clip(standardised(features), -_CLIP, _CLIP) / STEP)


def squared_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances `[N, K]` of integers `[N, D]` and `[K, D]` held in float64; exact below 2**53."""
    return (points**2).sum(1)[:, None] + (others**2).sum(1)[None, :] - 2 * points @ others.T


def medoid(points: np.ndarray) -> int:
    """The point nearest to the mean of all; the first of equals."""
    offsets = points * len(points) - points.sum(axis=0)
    return int(np.argmin((offsets**2).sum(axis=1)))


def maximin(points: np.ndarray, count: int, groups: Sequence[str] | None = None) -> list[int]:
    """Farthest-point selection (Gonzalez 1985): begin at the medoid, then always take the point farthest from all taken.

    Args:
        points: `[N, D]`, from `quantise`.
        count: how many to take.
        groups: one name a point; then each step takes from the groups that have given the fewest so far, so that as
            many groups as possible are represented.

    Returns:
        Positions in the order in which they were taken; the lowest position wins a tie.

    Raises:
        ValueError: count is not in 1..N.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"count {count} is out of bounds: choose 1 to {len(points)}")
    names, group = np.unique(np.asarray(groups if groups is not None else [""] * len(points)), return_inverse=True)
    given = np.zeros(len(names), dtype=np.int64)
    free = np.ones(len(points), dtype=bool)
    nearest = np.full(len(points), np.inf)
    chosen: list[int] = []
    while len(chosen) < count:
        if chosen:
            fewest = given[group[free]].min()
            allowed = free & (given[group] == fewest)
            index = int(np.argmax(np.where(allowed, nearest, -1.0)))
        else:
            index = medoid(points)
        chosen.append(index)
        free[index] = False
        given[group[index]] += 1
        nearest = np.minimum(nearest, squared_distances(points, points[index : index + 1])[:, 0])
    return chosen


def medoids(points: np.ndarray, count: int, sweeps: int = 100) -> list[int]:
    """k-medoids: begin with `maximin`, then alternate assignment and update until nothing changes (Park & Jun 2009).

    Args:
        points: `[N, D]`, from `quantise`.
        count: number of medoids.
        sweeps: most alternations.

    Returns:
        Positions of the medoids, ascending.

    Raises:
        ValueError: as `maximin`.
    """
    chosen = np.array(sorted(maximin(points, count)))
    for _ in range(sweeps):
        owner = squared_distances(points, points[chosen]).argmin(axis=1)
        updated = []
        for cluster in range(count):
            members = np.flatnonzero(owner == cluster)
            # Rounded square roots: the sum of distances, in whole STEPs, stays exact.
            costs = np.round(np.sqrt(np.maximum(squared_distances(points[members], points[members]), 0))).sum(axis=1)
            updated.append(int(members[int(costs.argmin())]))
        updated = np.array(sorted(updated))
        if np.array_equal(updated, chosen):
            break
        chosen = updated
    return [int(index) for index in chosen]
