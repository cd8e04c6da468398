"""Vendi score of repeated subsets of equal size, because the score grows with the number of images."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist, pdist

SUBSET = 73  # images in one subset: the size of the reference set


def median_distance(features: np.ndarray) -> float:
    """Median Euclidean distance between different rows of features [N, D]; 1 where it would be 0."""
    distance = float(np.median(pdist(np.asarray(features, dtype=np.float64))))
    return distance if distance > 0 else 1.0


def rbf_kernel(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-d^2 / (2 bandwidth^2)) of rows: [N, D], [M, D] -> [N, M]."""
    return np.exp(-cdist(np.asarray(a, np.float64), np.asarray(b, np.float64), "sqeuclidean") / (2 * bandwidth**2))


def vendi(kernel: np.ndarray, order: float = 1.0) -> float:
    """Effective number of different items (Friedman and Dieng, arXiv 2210.02410, definition 3.1; order q as in 2310.12952).

    Args:
        kernel: [N, N] similarities, positive semi-definite, ones on the diagonal.
        order: q; 1 is the exponential of the eigenvalues' Shannon entropy.

    Returns:
        Between 1 (all the same) and N (all unlike).
    """
    n = len(kernel)
    if order == 2:
        return float(n**2 / (kernel**2).sum())
    values = np.linalg.eigvalsh(kernel / n)
    values = values[values > 1e-12]
    if order == 1:
        return float(np.exp(-(values * np.log(values)).sum()))
    return float((values**order).sum() ** (1 / (1 - order)))


def subset_size(count: int) -> int:
    """Images in one subset: 73 where at least eight such subsets are disjoint, an eighth of the images otherwise (at least 2)."""
    return SUBSET if count >= 8 * SUBSET else max(2, count // 8)


def partitions(count: int, size: int, generator: np.random.Generator, repeats: int = 8) -> np.ndarray:
    """Random partitions of `count` images into disjoint subsets: indices [Q, U, size], the remainder left out.

    Disjoint subsets are independent, so they are what a bootstrap may resample; a resample of images themselves would
    hold duplicates, which are not diverse.
    """
    units = count // size
    return np.stack([generator.permutation(count)[: units * size].reshape(units, size) for _ in range(repeats)])


def subset_vendi(features: np.ndarray, subsets: np.ndarray, bandwidth: float, order: float = 1.0) -> np.ndarray:
    """Vendi score of every subset: features [N, D], subsets [Q, U, m] -> [Q, U]."""
    flat = subsets.reshape(-1, subsets.shape[-1])
    scores = [vendi(rbf_kernel(features[index], features[index], bandwidth), order) for index in flat]
    return np.asarray(scores).reshape(subsets.shape[:2])


def subset_spread(features: np.ndarray, subsets: np.ndarray) -> np.ndarray:
    """Mean over features of their standard deviation within every subset: [N, D], [Q, U, m] -> [Q, U]."""
    return features[subsets].std(axis=2, ddof=1).mean(axis=-1)
