"""Does an image show what its prompt says? Attributes are read by ridge regression on the judge's features."""

from __future__ import annotations

from collections.abc import Callable

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


def moments(counts: np.ndarray, read: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance of read, of wanted, and their covariance under image weights.

    Args:
        counts: [R, N] how often each image counts.
        read: [N, A]; wanted: [N, A], NaN where the prompt is silent.

    Returns:
        [R, A] each; the variance of wanted is 0 or NaN where fewer than two different values are wanted.
    """
    known = np.isfinite(wanted)
    x, y = np.where(known, read, 0.0), np.where(known, wanted, 0.0)
    total = counts @ known.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = counts @ x / total, counts @ y / total
        return counts @ (x * x) / total - mean_x**2, counts @ (y * y) / total - mean_y**2, counts @ (x * y) / total - mean_x * mean_y


def correlations(counts: np.ndarray, read: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Squared correlation of read and wanted attributes [R, A]; NaN where fewer than two different values are wanted. Arguments as for `moments`."""
    xx, yy, xy = moments(counts, read, wanted)
    with np.errstate(invalid="ignore", divide="ignore"):
        squared = np.maximum(xy, 0) ** 2 / (xx * yy)  # a negative correlation is disobedience, not obedience
    return np.where((yy > 1e-9) & (xx > 1e-12), squared, np.where(yy > 1e-9, 0.0, np.nan))


def slopes(counts: np.ndarray, read: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far the reading follows what is asked, per unit asked [R, A]: unlike the correlation it does not fall when images vary more otherwise."""
    _, yy, xy = moments(counts, read, wanted)
    return np.divide(xy, yy, out=np.full_like(xy, np.nan), where=yy > 1e-9)


def residuals(counts: np.ndarray, read: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Variance of the reading that the prompt does not explain [R, A]: variety within prompts, noise of the reading, disobedience."""
    xx, yy, xy = moments(counts, read, wanted)
    return xx - np.divide(xy**2, yy, out=np.full_like(xy, np.nan), where=yy > 1e-9)


def adherence_change(base: np.ndarray, tuned: list[np.ndarray], ceiling: np.ndarray, wanted: np.ndarray, generator: np.random.Generator, resamples: int = 1000) -> dict:
    """Caption adherence of base and tuned, and its relative change.

    Adherence is the squared correlation between what the prompts say and what is read, averaged over the attributes that
    are legible in obedient renders.

    Args:
        base: [N, A] read from the base's images; tuned: the same for each training seed; ceiling: for obedient renders.
        wanted: [N, A] what the prompts say.
        generator: of the bootstrap over images and seeds.

    Returns:
        `base`, `tuned`, `ceiling`, `attributes` (how many are legible), `relative` (Interval; None where no attribute is
        legible or the base does not obey at all), and why it changed: `slope` and `residual`, the relative changes of what
        follows the prompt and of what does not (Intervals, or None).
    """
    ones = np.ones((1, len(base)))
    top = correlations(ones, ceiling, wanted)[0]
    legible = np.nan_to_num(top, nan=-1) >= LEGIBLE
    if not legible.any():
        return {"base": None, "tuned": None, "ceiling": None, "attributes": 0, "relative": None, "slope": None, "residual": None}

    def level(counts: np.ndarray, read: np.ndarray, measure: Callable[..., np.ndarray] = correlations) -> np.ndarray:
        return np.nanmean(measure(counts, read[:, legible], wanted[:, legible]), axis=1)

    def levels_of_all(measure: Callable[..., np.ndarray] = correlations) -> tuple[float, float]:
        return float(level(ones, base, measure)[0]), float(np.mean([level(ones, read, measure)[0] for read in tuned]))

    def change(measure: Callable[..., np.ndarray], floor: float = 0.0) -> Interval:
        levels = np.stack([level(counts, read, measure) for read in tuned], axis=1)
        before, after = levels_of_all(measure)
        drawn = (levels * seeds).sum(1) / seeds.sum(1) / np.maximum(level(counts, base, measure), floor) - 1
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        return Interval(after / before - 1, float(low), float(high))

    counts, seeds = resample_counts(generator, resamples, len(base)), resample_counts(generator, resamples, len(tuned))
    base_level, tuned_level = levels_of_all()
    facts = {"base": base_level, "tuned": tuned_level, "ceiling": float(top[legible].mean()), "attributes": int(legible.sum())}
    if base_level < DISOBEDIENT:
        return facts | {"relative": None, "slope": None, "residual": None}
    return facts | {"relative": change(correlations, DISOBEDIENT), "slope": change(slopes), "residual": change(residuals)}
