"""Does an image show what its prompt says? Attributes are read by ridge regression on the judge's features."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV

from backend.evaluation.bootstrap import Interval, resample_counts

LEGIBLE = 0.1  # attributes whose regressor explains less of obedient renders say nothing of obedience
DISOBEDIENT = 0.02  # a base whose images tell nothing of their prompts has no obedience to lose
ALPHAS = np.geomspace(1, 1e5, 11)


class Reader:
    """Ridge regressors from features to attributes, the penalty chosen by generalised cross-validation.

    Args:
        features: [H, D] standardised features of held-out renders.
        targets: [H, A] their attributes.
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        self.models = [RidgeCV(ALPHAS).fit(features, column) for column in targets.T]

    def read(self, features: np.ndarray) -> np.ndarray:
        """[N, D] -> [N, A]."""
        return np.stack([model.predict(features) for model in self.models], axis=1)


def correlations(counts: np.ndarray, read: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Squared correlation of read and wanted attributes under image weights.

    Args:
        counts: [R, N] how often each image counts.
        read: [N, A]; wanted: [N, A], NaN where the prompt is silent.

    Returns:
        [R, A]; NaN where fewer than two different values are wanted.
    """
    known = np.isfinite(wanted)
    x, y = np.where(known, read, 0.0), np.where(known, wanted, 0.0)
    total = counts @ known.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = counts @ x / total, counts @ y / total
        xx, yy, xy = counts @ (x * x) / total - mean_x**2, counts @ (y * y) / total - mean_y**2, counts @ (x * y) / total - mean_x * mean_y
        squared = np.maximum(xy, 0) ** 2 / (xx * yy)  # a negative correlation is disobedience, not obedience
    return np.where((yy > 1e-9) & (xx > 1e-12), squared, np.where(yy > 1e-9, 0.0, np.nan))


def adherence_change(base: np.ndarray, tuned: list[np.ndarray], ceiling: np.ndarray, wanted: np.ndarray, generator: np.random.Generator, resamples: int = 1000) -> dict:
    """Caption adherence of base and tuned, and its relative change.

    Adherence is the squared correlation between what the prompts say and what is read, averaged over the attributes that
    are legible in obedient renders.

    Args:
        base: [N, A] read from the base's images; tuned: the same for each training seed; ceiling: for obedient renders.
        wanted: [N, A] what the prompts say.
        generator: of the bootstrap over images and seeds.

    Returns:
        `base`, `tuned`, `ceiling`, `attributes` (how many are legible) and `relative` (Interval; None where
        no attribute is legible or the base does not obey at all).
    """
    ones = np.ones((1, len(base)))
    top = correlations(ones, ceiling, wanted)[0]
    legible = np.nan_to_num(top, nan=-1) >= LEGIBLE
    if not legible.any():
        return {"base": None, "tuned": None, "ceiling": None, "attributes": 0, "relative": None}

    def level(counts: np.ndarray, read: np.ndarray) -> np.ndarray:
        return np.nanmean(correlations(counts, read[:, legible], wanted[:, legible]), axis=1)

    counts, seeds = resample_counts(generator, resamples, len(base)), resample_counts(generator, resamples, len(tuned))
    levels = np.stack([level(counts, read) for read in tuned], axis=1)
    base_level, tuned_level = float(level(ones, base)[0]), float(np.mean([level(ones, read)[0] for read in tuned]))
    facts = {"base": base_level, "tuned": tuned_level, "ceiling": float(top[legible].mean()), "attributes": int(legible.sum())}
    if base_level < DISOBEDIENT:
        return facts | {"relative": None}
    drawn = (levels * seeds).sum(1) / seeds.sum(1) / np.maximum(level(counts, base), DISOBEDIENT) - 1
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return facts | {"relative": Interval(tuned_level / base_level - 1, float(low), float(high))}
