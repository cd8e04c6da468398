"""k-nearest-neighbour manifolds: precision and recall (arXiv 1904.06991), density and coverage (2002.09797), memorisation."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

K = 3  # neighbours, as in 1904.06991


def radii(points: np.ndarray, k: int = K) -> np.ndarray:
    """Distance of each point to its k-th nearest other point: [M, D] -> [M]; k is cut to M - 1.

    Raises:
        ValueError: fewer than two points.
    """
    if len(points) < 2:
        raise ValueError(f"{len(points)} points have no neighbours: give at least 2")
    distances = cdist(points, points)
    return np.sort(distances, axis=1)[:, min(k, len(points) - 1)]


def inside(points: np.ndarray, manifold: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Whether each point [N, D] lies in the ball of any manifold point [M, D] with radius [M]: bool [N]."""
    return (cdist(points, manifold) <= radius[None]).any(axis=1)


def precision(generated: np.ndarray, real: np.ndarray, k: int = K, radius: np.ndarray | None = None) -> np.ndarray:
    """Per generated image, whether it lies in the real manifold: [N] of 0 and 1; the mean is the precision. `radius`: `radii(real, k)` where they are known."""
    return inside(generated, real, radii(real, k) if radius is None else radius).astype(np.float64)


def realism(generated: np.ndarray, real: np.ndarray, k: int = K, radius: np.ndarray | None = None) -> np.ndarray:
    """Per generated image, the logarithm of its realism (1904.06991, section 5): [N], 0 or more where `precision` is 1 and below 0 elsewhere; `radius` as there.

    The largest ratio of a real image's radius to its distance; all balls count, as they do for precision. It says how far inside or outside an
    image lies, so that far fewer images show a change than of precision's ones and zeros.
    """
    ratio = (radii(real, k) if radius is None else radius)[None] / np.maximum(cdist(generated, real), 1e-12)
    return np.log(np.maximum(ratio.max(axis=1), 1e-12))


def recall(generated: np.ndarray, real: np.ndarray, k: int = K) -> np.ndarray:
    """Per real image, whether it lies in the generated manifold: [M] of 0 and 1; the mean is the recall."""
    return inside(real, generated, radii(generated, k)).astype(np.float64)


def coverage(generated: np.ndarray, real: np.ndarray, k: int = K, radius: np.ndarray | None = None) -> np.ndarray:
    """Per real image, whether a generated one lies in its ball: [M] of 0 and 1; the mean is the coverage. `radius` as in `precision`."""
    return (cdist(real, generated) <= (radii(real, k) if radius is None else radius)[:, None]).any(axis=1).astype(np.float64)


def nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to and index of each point's nearest other: [N, D], [M, D] -> [N], [N]."""
    distances = cdist(points, others)
    index = distances.argmin(axis=1)
    return distances[np.arange(len(points)), index], index


def memorisation(generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, quantile: float = 0.01) -> dict[str, np.ndarray]:
    """How much closer generated images come to the training images than unseen real ones do.

    Args:
        generated: [N, D]; training: [M, D], images that the policy was rewarded for resembling; held_out: [H, D].
        quantile: share of held-out images that counts as suspiciously close.

    Returns:
        [N] each: `distance` to the nearest training image in units of the held-out images' mean (1: as far as unseen images; near 0: a
        copy), and `close`, 1 where it is below the held-out quantile (expected on average: the quantile itself).
    """
    ours, _ = nearest(generated, training)
    unseen, _ = nearest(held_out, training)
    mean = float(unseen.mean())
    return {"distance": ours / mean if mean > 0 else np.full_like(ours, np.nan), "close": (ours < np.quantile(unseen, quantile)).astype(np.float64)}
