"""What a reference set is like: light, colour, spread in feature space, near duplicates, words of the captions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.reference.dataset import ReferenceSet
from backend.reference.duplicates import near_duplicates, thumbnail
from backend.reference.selection import standardised


@dataclass(frozen=True)
class FeatureView:
    """Two-dimensional pictures of a set of features.

    Attributes:
        principal: float64 `[M, 2]`, the two leading principal components, in units of standardised features.
        explained: share of the variance along each of all components, descending.
        neighbours: float64 `[M, 2]` from t-SNE; empty `[0, 2]` for sets below 5 images.
        distances: float64 `[M, M]`, Euclidean distances of standardised features.
    """

    principal: np.ndarray
    explained: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray


def pairwise_distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances `[M, M]` of points `[M, D]`."""
    from scipy.spatial.distance import cdist

    return cdist(points, points)


def effective_rank(points: np.ndarray) -> float:
    """Number of directions that carry the variance: exp of the entropy of its shares (Roy & Vetterli 2007)."""
    variances = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) ** 2
    if variances.sum() <= 0:
        return 0.0
    shares = variances[variances > 0] / variances.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spectral_slope(images: np.ndarray) -> float:
    """Exponent s of the mean power spectrum ~ k^-s of the grey images `[M, h, w, 3]`, fitted from 4 waves a frame to half the Nyquist frequency."""
    grey = images.mean(axis=-1) - images.mean(axis=(1, 2, 3))[:, None, None]
    height, width = grey.shape[1:]
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    power = (np.abs(np.fft.fft2(grey * window)) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None, :] * width)
    rings = np.arange(4, max(min(height, width) // 4, 6))
    mean = np.array([power[(radius >= ring - 0.5) & (radius < ring + 0.5)].mean() for ring in rings])
    return float(-np.polyfit(np.log(rings), np.log(np.maximum(mean, 1e-12)), 1)[0])


def describe_images(reference: ReferenceSet) -> dict[str, Any]:
    """Figures that need no network.

    Returns:
        JSON-able: count, size, brightness and contrast (0 to 1), saturation, share of saturated pixels, spectral slope,
        near duplicates, captions with their commonest words.
    """
    images = reference.images.astype(np.float64) / 255
    grey = images.mean(axis=-1)
    words = Counter(word for caption in reference.captions for word in caption.lower().split())
    pairs = near_duplicates([thumbnail(image) for image in reference.images])
    files = [entry["file"] for entry in reference.manifest["images"]]
    return {
        "name": reference.manifest.get("name") or reference.folder.name,
        "simulated": reference.simulated,
        "licence": reference.manifest.get("licence", ""),
        "images": len(reference),
        "width": int(reference.images.shape[2]),
        "height": int(reference.images.shape[1]),
        "brightness_mean": float(grey.mean()),
        "brightness_std_between_images": float(grey.mean(axis=(1, 2)).std()),
        "contrast_mean": float(grey.std(axis=(1, 2)).mean()),
        "saturation_mean": float((images.max(axis=-1) - images.min(axis=-1)).mean()),
        "black_or_white_share": float(((reference.images == 0) | (reference.images == 255)).all(axis=-1).mean()),
        "spectral_slope": spectral_slope(reference.images),
        "near_duplicates": [[files[pair.second], files[pair.first]] for pair in pairs],
        "captions": sum(bool(caption) for caption in reference.captions),
        "commonest_words": dict(words.most_common(12)),
    }


def describe_features(features: np.ndarray) -> dict[str, float]:
    """Spread of features `[M, D]`, M >= 2, after standardisation.

    Returns:
        Dimension, effective rank, mean pairwise distance, and the smallest and median distance to the nearest other image.
    """
    points = standardised(features)
    distances = pairwise_distances(points)
    nearest = np.where(np.eye(len(points), dtype=bool), np.inf, distances).min(axis=1)
    return {
        "dimension": int(points.shape[1]),
        "effective_rank": effective_rank(points),
        "pairwise_mean": float(distances[np.triu_indices(len(points), 1)].mean()),
        "nearest_min": float(nearest.min()),
        "nearest_median": float(np.median(nearest)),
    }


def view_features(features: np.ndarray, seed: int = 0) -> FeatureView:
    """PCA, t-SNE and pairwise distances of features `[M, D]`, M >= 2.

    Args:
        features: raw features.
        seed: of t-SNE.
    """
    points = standardised(features)
    left, values, _ = np.linalg.svd(points, full_matrices=False)
    variances = values**2
    scores = left * values
    scores *= np.where(scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])] < 0, -1.0, 1.0)  # one sign, whatever LAPACK chose
    principal = np.pad(scores[:, :2], ((0, 0), (0, max(0, 2 - scores.shape[1]))))
    return FeatureView(principal, variances / max(variances.sum(), 1e-12), _tsne(points, seed), pairwise_distances(points))


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    if len(points) < 5:
        return np.zeros((0, 2))
    from sklearn.manifold import TSNE

    perplexity = min(15.0, (len(points) - 1) / 3)  # van der Maaten & Hinton 2008 advise 5 to 50; sets here are small
    return TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points.astype(np.float32)).astype(np.float64)
