"""Base against tuned: diversity gap closed, precision, adherence, memorisation, each with its paired interval."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from backend.evaluation import manifold
from backend.evaluation.adherence import adherence_change
from backend.evaluation.bootstrap import Interval, gap_closed, paired_bootstrap
from backend.evaluation.diversity import partitions, subset_size, subset_spread, subset_vendi
from backend.evaluation.judges import Judges, Measured
from backend.runs.files import finite

PRECISION_MARGIN = -3.0  # points; the 95 % lower bound of the change must lie above
ADHERENCE_MARGIN = -0.05  # relative change
PRECISION, REALISM, CLOSE = "Precision (%)", "Realism, mean logarithm", "Suspiciously close to the reference (share)"
CLOSE_MARGIN = 0.03  # change of the share of images that are suspiciously close to the reference; its 95 % upper bound must lie below


def block_scores(measured: Measured, judges: Judges, subsets: np.ndarray) -> dict[str, np.ndarray]:
    """Diversity of every subset by judge: [Q, U] each.

    Vendi score for Lite2 and wavelets; for the measured crater attributes their spread, in standard deviations of the
    real side.
    """
    scores = {name: subset_vendi(measured.spaces[name], subsets, judges.bandwidths[name]) for name in ("lite2", "wavelet")}
    return scores | {"attributes": subset_spread(measured.spaces["attributes"], subsets)}


def _stack(tables: list[np.ndarray]) -> np.ndarray:
    """[S] tables of [Q, U] -> [Q, S, U]."""
    return np.stack(tables, axis=1)


def diversity_rows(
    base: Measured, tuned: list[Measured], ceiling: Measured, judges: Judges, generator: np.random.Generator, reference: Measured | None = None
) -> tuple[list[dict], dict[str, Interval]]:
    """Rows of the table and the gap closed by judge; the reference set has a level where it has as many images as a subset."""
    subsets = partitions(len(base), min(subset_size(len(base)), len(ceiling)), generator)
    ceiling_subsets = subsets if len(ceiling) == len(base) else partitions(len(ceiling), subsets.shape[2], generator)[:, : subsets.shape[1]]
    bases, tops = block_scores(base, judges, subsets), block_scores(ceiling, judges, ceiling_subsets)
    seeds = [block_scores(item, judges, subsets) for item in tuned]
    names = {"lite2": "Vendi score, Lite2", "wavelet": "Vendi score, wavelets", "attributes": "Spread of measured attributes"}
    beside = {}
    if reference is not None and len(reference) >= subsets.shape[2]:
        own = partitions(len(reference), subsets.shape[2], np.random.default_rng(0))  # a generator of its own: the others' intervals do not depend on it
        beside = {name: {"reference": float(scores.mean())} for name, scores in block_scores(reference, judges, own).items()}
    rows, gaps = [], {}
    for name, title in names.items():
        tables = [_stack([s[name] for s in seeds]), bases[name][:, None], tops[name][:, None]]
        change = paired_bootstrap(tables[:2], generator)
        rows.append(_row(title, float(bases[name].mean()), float(tables[0].mean()), change, ceiling=float(tops[name].mean()), subset=subsets.shape[2], **beside.get(name, {})))
        gaps[name] = paired_bootstrap(tables, generator, gap_closed)
        rows.append(_row(f"Diversity gap closed, {name}", None, None, gaps[name]))
    return rows, gaps


def _row(measure: str, base: float | None, tuned: float | None, interval: Interval | None, **extra: Any) -> dict[str, Any]:
    numbers = interval.to_dict() if interval is not None else {"estimate": None, "low": None, "high": None}
    return finite({"measure": measure, "base": base, "tuned": tuned, **numbers, **extra})


def manifold_rows(base: Measured, tuned: list[Measured], ceiling: Measured, reference: Measured, judges: Judges, generator: np.random.Generator) -> tuple[list[dict], Interval]:
    """Precision, recall and coverage in points (percent), mean log realism, and the change of precision.

    Recall and coverage of the reference set would be those of another number of images, so they are left out.
    """
    real = judges.real.spaces["lite2"]
    radius = manifold.radii(real)
    measures = {
        PRECISION: (100, partial(manifold.precision, radius=radius)),
        "Recall (%)": (100, manifold.recall),
        "Coverage (%)": (100, partial(manifold.coverage, radius=radius)),
        REALISM: (1, partial(manifold.realism, radius=radius)),
    }
    rows, changes = [], {}
    for title, (unit, measure) in measures.items():
        before, top = (unit * measure(item.spaces["lite2"], real) for item in (base, ceiling))
        after = np.stack([unit * measure(item.spaces["lite2"], real) for item in tuned])
        own = np.random.default_rng(0) if title == REALISM else generator  # the others' intervals stay what they were before it was measured
        changes[title] = paired_bootstrap([after, before], own)
        beside = {"ceiling": float(top.mean())}
        if title in (PRECISION, REALISM):
            beside["reference"] = float(unit * measure(reference.spaces["lite2"], real).mean())
        rows.append(_row(title, float(before.mean()), float(after.mean()), changes[title], **beside))
    return rows, changes[PRECISION]


def memorisation_rows(base: Measured, tuned: list[Measured], reference: Measured, judges: Judges, generator: np.random.Generator) -> tuple[list[dict[str, Any]], Interval | None]:
    """Distance to the nearest reference image relative to that of unseen real images, the share that comes suspiciously close, and the change of that share.

    Where the real side is the reference itself no real image is unseen: dashes, and None for the change.
    """
    held_out, known = judges.real.spaces["lite2"], reference.spaces["lite2"]
    titles = {"distance": "Nearest reference distance / unseen", "close": CLOSE}
    if np.array_equal(held_out, known):
        return [_row(title, None, None, None) for title in titles.values()], None
    before, *after = (manifold.memorisation(item.spaces["lite2"], known, held_out) for item in (base, *tuned))
    changes = {key: paired_bootstrap([np.stack([item[key] for item in after]), before[key]], generator) for key in titles}
    if all(np.array_equal(item["close"], before["close"]) for item in after):
        changes["close"] = unseen_change(len(base))
    rows = [_row(title, float(before[key].mean()), float(np.mean([item[key].mean() for item in after])), changes[key]) for key, title in titles.items()]
    return rows, changes["close"]


def unseen_change(pairs: int, level: float = 0.95) -> Interval:
    """Interval of the change of a share where no pair of ones and zeros differs: resampling would give no width, though few pairs exclude little.

    Clopper and Pearson (1934): an event that none of N shows is no likelier than 1 - (alpha / 2)^(1/N), 0.4 % for 1024 and 5.6 % for 64.
    """
    bound = 1 - ((1 - level) / 2) ** (1 / pairs)
    return Interval(0.0, -bound, bound)


def guards_of(precision: Interval, adherence: Interval | None, close: Interval | None) -> dict[str, Any]:
    """Whether quality was kept; a guard that cannot be measured is None and decides nothing.

    `unsettled` names the guards that are not kept though the interval holds no change at all: more images are needed to tell.

    Args:
        precision: change in points.
        adherence: relative change.
        close: change of the share of images that are suspiciously close to the reference.
    """
    kept = bool(precision.low > PRECISION_MARGIN)
    fresh = None if close is None else bool(close.high < CLOSE_MARGIN)
    obeyed = None if adherence is None else bool(adherence.estimate >= ADHERENCE_MARGIN)
    margins = {"precision_margin": PRECISION_MARGIN, "adherence_margin": ADHERENCE_MARGIN, "memorisation_margin": CLOSE_MARGIN}
    unsettled = ["precision"] if not kept and precision.high >= 0 else []
    unsettled += ["memorisation"] if fresh is False and close.low <= 0 else []
    verdicts = {"precision": kept, "adherence": obeyed, "memorisation": fresh, "unsettled": unsettled}
    return {**verdicts, "precision_low": finite(precision.low), **margins, "passed": kept and fresh is not False and obeyed is not False}


def compare(
    base: Measured, tuned: list[Measured], ceiling: Measured, reference: Measured, judges: Judges, wanted: np.ndarray | None, generator: np.random.Generator
) -> dict[str, Any]:
    """Everything that evaluation says of one or several training seeds of a setting.

    Args:
        base: N images of the base.
        tuned: N images of each training seed, drawn with the base's prompts and noise seeds.
        ceiling: N renders of the same captions, or the reference images where nothing can be rendered.
        reference: the reference set.
        judges: which judge.
        wanted: [N, A] what the prompts say, or None.
        generator: of the bootstrap.

    Returns:
        `gap_closed` (Lite2; None where it has no meaning), `gap` by judge, `table` (rows with measure, base, tuned,
        estimate, low, high), `guards`, `adherence`.
    """
    rows, gaps = diversity_rows(base, tuned, ceiling, judges, generator, reference)
    more, precision = manifold_rows(base, tuned, ceiling, reference, judges, generator)
    rows += more
    adherence: dict[str, Any] = {"relative": None}
    if wanted is not None and base.read is not None and ceiling.read is not None:
        adherence = adherence_change(base.read, [item.read for item in tuned], ceiling.read, wanted, generator)
        rows.append(_row("Caption adherence (r²), relative change", adherence["base"], adherence["tuned"], adherence["relative"], ceiling=adherence["ceiling"]))
        rows.append(_row("… readings follow the prompt (slope), relative change", None, None, adherence["slope"]))
        rows.append(_row("… readings vary without it (residual variance), relative change", None, None, adherence["residual"]))
    more, close = memorisation_rows(base, tuned, reference, judges, generator)
    rows += more
    relative = adherence["relative"]
    headline = gaps["lite2"].estimate if "lite2" in gaps else math.nan
    return {
        "gap_closed": headline if math.isfinite(headline) else None,
        "gap": {name: interval.to_dict() for name, interval in gaps.items()},
        "table": rows,
        "guards": guards_of(precision, relative, close),
        "adherence": {key: value.to_dict() if isinstance(value, Interval) else finite(value) for key, value in adherence.items()},
    }
