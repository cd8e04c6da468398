"""Is a run still learning? Slopes with intervals that know about autocorrelation, and the episode of the plateau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from backend.analysis.series import steady

LEARNING, PLATEAUING, FLAT = "LEARNING", "PLATEAUING", "FLAT"
MIN_SCORES = 20  # below this an interval of a slope says nothing, so a run is given the benefit of the doubt
RECENT = (20, 100)  # shortest and longest recent window, in episodes
LONG = 3  # the long window is this many recent windows
CHANCE = 0.05  # chance at which probes that do not rise may look as if they did


@dataclass(frozen=True)
class Trend:
    """Slope of a score over episodes.

    Attributes:
        slope: score units per episode, over the recent window.
        low, high: its 95 % interval; infinite where there are too few scores.
        state: `LEARNING`, `PLATEAUING` or `FLAT`.
    """

    slope: float
    low: float
    high: float
    state: str


def slope_interval(scores: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Least-squares slope per step and its interval under autocorrelated noise.

    The standard error is Newey-West's (Econometrica 55, 1987) with Bartlett weights and the bandwidth that Andrews
    (Econometrica 59, 1991, eq. 6.2 and 6.4) derives from an AR(1) fit of the residuals. That estimator is too small in
    short series, so it is never taken below the AR(1) one, whose factor is (1 + rho) / (1 - rho).

    Args:
        scores: [n] scores in order; values that are not finite are left out with their step.
        level: coverage of the interval.

    Returns:
        (slope, low, high); (0, -inf, inf) for fewer than four finite scores.
    """
    y = np.asarray(scores, dtype=np.float64)
    t = np.arange(len(y), dtype=np.float64)[np.isfinite(y)]
    y = y[np.isfinite(y)]
    n = len(y)
    if n < 4:
        return 0.0, -math.inf, math.inf
    centred = t - t.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y / spread)
    residual = y - y.mean() - slope * centred
    error = math.sqrt(max(_hac_variance(centred, residual), _ar1_variance(spread, residual)))
    half = stdtrit(n - 2, 0.5 + level / 2) * error
    return slope, slope - half, slope + half


def _autocorrelation(residual: np.ndarray) -> float:
    """Lag-1 autocorrelation, with the first-order correction of its downward bias (1 + 4 rho) / n for a fitted line."""
    total = float(residual @ residual)
    if total <= 0:
        return 0.0
    rho = float(residual[1:] @ residual[:-1]) / total
    return float(np.clip(rho + (1 + 4 * rho) / len(residual), -0.97, 0.97))


def _hac_variance(centred: np.ndarray, residual: np.ndarray) -> float:
    """Newey-West variance of the slope."""
    n = len(residual)
    rho = min(abs(_autocorrelation(residual)), 0.97)
    alpha = 4 * rho**2 / ((1 - rho) ** 2 * (1 + rho) ** 2)
    lags = min(n - 1, int(1.1447 * (alpha * n) ** (1 / 3)))
    moment = centred * residual
    total = float(moment @ moment)
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(moment[lag:] @ moment[:-lag])
    spread = float(centred @ centred)
    return max(total, 0.0) * n / (n - 2) / spread**2


def _ar1_variance(spread: float, residual: np.ndarray) -> float:
    """Variance of the slope if the residual is AR(1); at least the one of independent noise."""
    n = len(residual)
    rho = max(_autocorrelation(residual), 0.0)
    return float(residual @ residual) / (n - 2) / spread * (1 + rho) / (1 - rho)


def trend(scores: Sequence[float], probes: Sequence[float] = ()) -> Trend:
    """Slope over the recent episodes, and what it says of the run.

    LEARNING: the recent slope lies above zero, or that of the window three times as long does and nothing shows that
    it has slowed to less than half of what it was before, or the probes, which are free of what a group's prompts and seeds
    add by chance, rise (Kendall's rank test) and the newest is the highest. PLATEAUING: the long window rose, the recent one no longer
    does. FLAT: neither rises. Fewer than 20 scores are called LEARNING, with an infinite interval.

    Args:
        scores: [n] one raw group score per episode, oldest first.
        probes: [p] scores of fixed prompts and seeds, the base's first; fewer than four say nothing.
    """
    values = np.asarray(scores, dtype=np.float64)
    if np.isfinite(values).sum() < MIN_SCORES:
        slope = slope_interval(values)[0]
        return Trend(slope, -math.inf, math.inf, LEARNING)
    window = int(np.clip(len(values) // LONG, *RECENT))
    slope, low, high = slope_interval(values[-window:])
    long_low = slope_interval(values[-LONG * window :])[1]
    earlier = slope_interval(values[-LONG * window : -window])[0]
    still = low > 0 or (long_low > 0 and high >= 0.5 * earlier) or _rising(probes)
    stopped = PLATEAUING if long_low > 0 else FLAT
    return Trend(slope, low, high, LEARNING if still else stopped)


def _rising(probes: Sequence[float]) -> bool:
    """Whether the newest probe is the highest and their order would hardly come about by chance."""
    found = np.asarray(probes, dtype=np.float64)
    if len(found) < 4 or not np.isfinite(found).all() or found[-1] <= found[:-1].max():
        return False
    from scipy.stats import kendalltau  # most of a second, which each start of a training would wait for

    return bool(kendalltau(np.arange(len(found)), found, alternative="greater").pvalue < CHANCE)


def plateau_episode(scores: Sequence[float]) -> int | None:
    """Episode from which the score no longer rises, or None where it still does or never did.

    A broken stick y = a + b min(t, tau) is fitted for every tau and taken where it beats both a straight line and a
    constant by the Bayesian information criterion (difference above 6, "strong" in Kass and Raftery 1995) and the slope
    after tau has an interval that reaches zero or is less than a tenth of the one before.

    Args:
        scores: [n] one score per episode, oldest first.
    """
    y = np.asarray(scores, dtype=np.float64)
    t = np.arange(len(y), dtype=np.float64)
    t, y = _condense(t[np.isfinite(y)], y[np.isfinite(y)])
    n = len(y)
    if n < MIN_SCORES:
        return None
    candidates = t[4:-4]
    errors = [_residual_sum(np.minimum(t, tau), y) for tau in candidates]
    tau = float(candidates[int(np.argmin(errors))])
    broken = _bic(min(errors), n, 3)
    if broken > min(_bic(_residual_sum(t, y), n, 2), _bic(float(((y - y.mean()) ** 2).sum()), n, 1)) - 6:
        return None
    before = float(np.polyfit(np.minimum(t, tau), y, 1)[0])
    _, low, _ = slope_interval(y[t >= tau])
    after = float(np.polyfit(t[t >= tau], y[t >= tau], 1)[0])  # per episode: means over bins need not be equally far apart
    level = low <= 0 or after < 0.1 * before
    return int(round(tau)) if before > 0 and level else None


def plateau(data: dict[str, np.ndarray]) -> float | None:
    """Number of the episode from which the score no longer rises, of those that `steady` counts; None where there is none. `data` has the column `episode`."""
    counted = steady(data)
    at = plateau_episode(counted)
    return None if at is None else float(data["episode"][len(data["batch_score"]) - len(counted) + at])


def _condense(t: np.ndarray, y: np.ndarray, most: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal bins, so that the search stays quadratic in a small number."""
    if len(y) <= most:
        return t, y
    parts = np.array_split(np.arange(len(y)), most)
    return np.array([t[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def _residual_sum(x: np.ndarray, y: np.ndarray) -> float:
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread if spread > 0 else 0.0
    return float(((y - y.mean() - slope * centred) ** 2).sum())


def _bic(residual_sum: float, n: int, parameters: int) -> float:
    return n * math.log(max(residual_sum, 1e-300) / n) + parameters * math.log(n)


def stability(values: Sequence[float], windows: int = 10) -> dict[str, list[float] | float]:
    """Variance over time of a loss or a gradient norm.

    Args:
        values: [n] one value per update, oldest first.
        windows: number of equal, consecutive windows.

    Returns:
        `variance` and `mean` [windows] per window, `ratio` of the last third's variance to the first third's (above 1:
        growing less stable) and `variation`, the coefficient of variation of the whole. NaN where a part is empty.
    """
    y = np.asarray(values, dtype=np.float64)
    y = y[np.isfinite(y)]
    if len(y) < 6:
        return {"variance": [], "mean": [], "ratio": math.nan, "variation": math.nan}
    parts = np.array_split(y, min(windows, len(y) // 2))
    third = len(y) // 3
    first, last = float(y[:third].var(ddof=1)), float(y[-third:].var(ddof=1))
    return {
        "variance": [float(p.var(ddof=1)) for p in parts],
        "mean": [float(p.mean()) for p in parts],
        "ratio": last / first if first > 0 else math.nan,
        "variation": float(y.std(ddof=1) / abs(y.mean())) if y.mean() != 0 else math.nan,
    }
