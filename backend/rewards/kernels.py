"""Distances and kernels between sets of features, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.errors import InputError

# Bandwidths of the mixture, in multiples of the median distance; the smallest one sees near-duplicates only.
MIXTURE = (0.25, 0.5, 1.0, 2.0, 4.0)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances.

    Args:
        x: [N, D]
        y: [M, D]

    Returns:
        [N, M], never negative; the diagonal of a set with itself is exactly zero.
    """
    # Centring both sets keeps the subtraction of large squares from eating the digits of small distances.
    centre = y.mean(0) if len(y) else 0.0
    a, b = x - centre, y - centre
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2 * a @ b.T
    squares = squares.clamp_min(0)
    if x is y:
        squares.fill_diagonal_(0)
    return squares


def median_distance(y: Tensor) -> float:
    """Median of the distances between different members of a set [M, D]: the median heuristic for a bandwidth.

    Raises:
        InputError: fewer than two members, or half of all pairs are identical.
    """
    if len(y) < 2:
        raise InputError(f"a reference set of {len(y)} images has no distances: give at least 2", field="reference")
    median = float(torch.pdist(y).median())
    if not median > 0:
        raise InputError("half of the reference images are identical: the kernel has no bandwidth; give different images", field="reference")
    return median


def rbf(squares: Tensor, bandwidth: float) -> Tensor:
    """exp(-d^2 / 2 sigma^2) from squared distances, sigma = `bandwidth`."""
    return torch.exp(squares / (-2 * bandwidth**2))


def rbf_mixture(squares: Tensor, bandwidth: float) -> Tensor:
    """Mean of RBF kernels at `MIXTURE` multiples of `bandwidth` (as in generative moment matching networks, arXiv:1502.02761)."""
    return sum(rbf(squares, factor * bandwidth) for factor in MIXTURE) / len(MIXTURE)


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """KID's cubic kernel (x.y / D + 1)^3 (arXiv:1801.01401, section 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_matrix(x: Tensor, y: Tensor, kind: str, bandwidth: float) -> Tensor:
    """Kernel matrix [N, M] of one of TrainConfig's `mmd_kernel`s."""
    if kind == "polynomial":
        return polynomial(x, y)
    squares = squared_distances(x, y)
    return rbf(squares, bandwidth) if kind == "rbf" else rbf_mixture(squares, bandwidth)


def nearest_squares(squares: Tensor, k: int, exclude_self: bool) -> Tensor:
    """Squared distances to the k nearest columns of each row, nearest first.

    Args:
        squares: [N, M] squared distances.
        k: how many.
        exclude_self: the columns are the rows' own set; its zero diagonal does not count.

    Returns:
        [N, k]

    Raises:
        InputError: fewer than k neighbours.
    """
    available = squares.shape[1] - int(exclude_self)
    if available < k:
        raise InputError(f"knn_k = {k} needs {k + int(exclude_self)} images and there are {squares.shape[1]}: lower knn_k or give more images", field="knn_k")
    if exclude_self:
        squares = squares.clone().fill_diagonal_(float("inf"))
    return squares.topk(k, dim=1, largest=False).values


def kth_distances(squares: Tensor, k: int, exclude_self: bool) -> Tensor:
    """Distance [N] to the k-th nearest column for each row; arguments and errors are those of `nearest_squares`."""
    return nearest_squares(squares, k, exclude_self)[:, -1].sqrt()


def reference_radii(reference: Tensor, k: int) -> Tensor:
    """Distance of each reference image [M, D] to its k-th neighbour: [M].

    Raises:
        InputError: not more than k reference images.
    """
    return kth_distances(squared_distances(reference, reference), k, exclude_self=True).clamp_min(1e-9)
