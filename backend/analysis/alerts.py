"""Two warnings while a run is training: it stopped learning, or it learns to please the reward alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from backend.analysis.convergence import LEARNING, plateau_episode, trend
from backend.analysis.series import columns, present, probes, steady
from backend.runs import Run

GUARDED = ("component_quality", "component_adherence")  # columns that fall where a reward is hacked
WINDOW_IMAGES = 256  # images that one judgement looks at
LEVEL = 0.99  # of the intervals: the alert is asked for every episode, so 95 % would cry wolf


@dataclass(frozen=True)
class Alert:
    """A sentence for the person, with what it rests on.

    Attributes:
        kind: `plateau` or `reward_hacking`.
        message: what was seen and what to try.
        numbers: the measurements behind it.
    """

    kind: str
    message: str
    numbers: dict[str, float]


def change(values: Sequence[float], window: int, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of the last `window` values minus that of the first, with Welch's interval.

    Returns:
        (difference, low, high); NaN and an infinite interval where the two windows would overlap.
    """
    y = np.asarray(values, dtype=np.float64)
    y = y[np.isfinite(y)]
    if window < 2 or len(y) < 2 * window:
        return math.nan, -math.inf, math.inf
    first, last = y[:window], y[-window:]
    difference = float(last.mean() - first.mean())
    a, b = first.var(ddof=1) / window, last.var(ddof=1) / window
    if a + b <= 1e-24:
        return difference, difference, difference
    freedom = (a + b) ** 2 / (a**2 + b**2) * (window - 1)
    half = float(stdtrit(freedom, 0.5 + level / 2) * math.sqrt(a + b))
    return difference, difference - half, difference + half


def reward_hacking(diversity: Sequence[float], guards: Mapping[str, Sequence[float]], group_size: int) -> Alert | None:
    """Diversity up while a guard is down, each beyond its interval, from the first 256 training images to the last.

    Images of a group are not independent, so the unit is the episode's mean; at least eight episodes are compared.

    Args:
        diversity: [n] one number per episode, oldest first.
        guards: name -> [n], such as precision and caption adherence; higher is better.
        group_size: B, images in an episode.

    Returns:
        The alert, or None.
    """
    window = max(8, math.ceil(WINDOW_IMAGES / max(group_size, 1)))
    gain, low, _ = change(diversity, window)
    if not low > 0:
        return None
    fallen = {name: change(values, window) for name, values in guards.items()}
    fallen = {name: result for name, result in fallen.items() if result[2] < 0}
    if not fallen:
        return None
    words = " and ".join(f"{name} fell by {-result[0]:.3g}" for name, result in fallen.items())
    message = (
        f"Reward hacking: between the first and the last {window} episodes diversity rose by {gain:.3g} while {words}, beyond what chance explains. "
        "Raise the KL to base, the quality or the prompt-relevance weight, or go back to an earlier checkpoint."
    )
    return Alert("reward_hacking", message, {"diversity": gain, **{name: result[0] for name, result in fallen.items()}})


def of_run(run: Run) -> list[Alert]:
    """Alerts that a run's tables give now: plateau, and sample diversity against the quality and adherence components, both since guidance and reference last changed."""
    data = columns(run, "policy_updates", ["batch_score", "sample_diversity", "trend_from", *GUARDED])
    guards = {name.removeprefix("component_"): steady(data, name) for name in GUARDED if present(data.get(name))}
    scores = steady(data)
    found = [plateau(scores, probes(run), before=len(data.get("batch_score", ())) - len(scores))]
    if present(data.get("sample_diversity")):
        found.append(reward_hacking(steady(data, "sample_diversity"), guards, run.config.group_size))
    return [alert for alert in found if alert is not None]


def plateau(scores: Sequence[float], probed: Sequence[float] = (), least: int = 50, before: int = 0) -> Alert | None:
    """The score has stopped rising.

    Args:
        scores: [n] raw group scores, oldest first.
        probed: [p] probes, the base's first.
        least: scores before the question is asked.
        before: episodes of the run before the first score.
    """
    result = trend(scores, probed)
    if len(scores) < least or result.state == LEARNING:
        return None
    at = plateau_episode(scores)
    at = None if at is None else before + at + 1  # episodes count from 1
    since = f" since about episode {at}" if at is not None else ""
    message = (
        f"{result.state}: the score has not risen{since} (slope {result.slope:.2g} per episode, 95 % interval {result.low:.2g} to {result.high:.2g}). "
        "It may be this policy's optimum; otherwise try a higher learning rate, larger groups or a lower KL to base."
    )
    return Alert("plateau", message, {"slope": result.slope, "low": result.low, "high": result.high, **({"episode": float(at)} if at is not None else {})})
