"""Do judges that learned on renders agree with labels made by looking at real craters?"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy import stats

from backend.errors import InputError
from backend.reference.captions import ATTRIBUTES, caption_targets, parse_caption

LABELS = Path("docs/results/real_crop_labels.csv")
SECOND_LABELS = Path("docs/results/real_crop_labels_second.csv")  # of another who had not seen the first
COLUMNS = ("size", "age", "kind", "terrain", "rims", "interiors", "light")
NUMBERS = ("view", "size", "freshness", "colour", "light")  # attributes with an order; the others are words
LEAST = 4  # pictures with a word and without it, below which its AUC says nothing
RESAMPLES = 1000


def read_labels(path: Path = LABELS) -> tuple[list[str], np.ndarray]:
    """Labels that were made by looking.

    Args:
        path: CSV with `file` and the columns of COLUMNS; a cell that could not be judged is empty.

    Returns:
        N file names, and [N, A] what the words imply for ATTRIBUTES, NaN where nothing was said.

    Raises:
        InputError: no such file, a column is missing, or a word that is not of the captions.
    """
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): it holds the labels of the real crops") from error
    missing = [c for c in ("file", *COLUMNS) if not rows or c not in rows[0]]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}: it needs file, {', '.join(COLUMNS)}")
    targets = [_targets(row, path) for row in rows]
    return [row["file"] for row in rows], np.array(targets)


def _targets(row: dict[str, str], path: Path) -> list[float]:
    words = {c: row[c] + (" rims" if c == "rims" else "") for c in COLUMNS if row[c]}
    for column, word in words.items():
        if parse_caption(word) != {column: word}:
            raise InputError(f"{path}, {row['file']}: {row[column]!r} is no word for {column}: use those of docs/renderer.md")
    implied = caption_targets(" and ".join(words.values()))
    return [implied[name] for name in ATTRIBUTES]


def rank_correlation(read: np.ndarray, wanted: np.ndarray) -> float:
    """Spearman's correlation of [N] and [N]; NaN where one of them does not vary."""
    a, b = stats.rankdata(read), stats.rankdata(wanted)
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def area_under_curve(read: np.ndarray, wanted: np.ndarray) -> float:
    """Chance that a picture with the word (wanted 1) is read higher than one without it (0): Mann and Whitney's statistic over its maximum."""
    has = wanted > 0.5
    positive, negative = has.sum(), (~has).sum()
    if not positive or not negative:
        return float("nan")
    return float((stats.rankdata(read)[has].sum() - positive * (positive + 1) / 2) / (positive * negative))


def agreement(read: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> dict[str, dict]:
    """Agreement of readings with labels, by attribute.

    Args:
        read: [N, A] what a judge reads; NaN where another labeller said nothing.
        wanted: [N, A] labels, NaN where nothing was said.
        rng: of the bootstrap over pictures.

    Returns:
        By attribute `measure` (rank correlation, where 0 is chance; or AUC averaged over `words`, where 0.5 is), `value`
        with its 95 % bootstrap interval `low`, `high`, and `n` labelled pictures. Attributes whose labels do not vary
        enough are left out.
    """
    out = {}
    for group in dict.fromkeys(name.partition(":")[0] for name in ATTRIBUTES):
        columns = [i for i, name in enumerate(ATTRIBUTES) if name.partition(":")[0] == group]
        rows = np.flatnonzero(np.isfinite(wanted[:, columns[0]]) & np.isfinite(read[:, columns[0]]))
        if group in NUMBERS:
            if len(rows) < 2 * LEAST or len(np.unique(wanted[rows, columns[0]])) < 2:
                continue
            kept, statistic, measure = columns, rank_correlation, "rank correlation"
        else:
            kept = [c for c in columns if min((wanted[rows, c] > 0.5).sum(), (wanted[rows, c] < 0.5).sum()) >= LEAST]
            if not kept:
                continue
            statistic, measure = area_under_curve, "AUC"

        def mean(picked: np.ndarray, kept: list[int] = kept, statistic=statistic) -> float:
            return float(np.mean([statistic(read[picked, c], wanted[picked, c]) for c in kept]))

        drawn = [mean(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(RESAMPLES)]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        words = [ATTRIBUTES[c].partition(": ")[2] for c in kept if group not in NUMBERS]
        out[group] = {"measure": measure, "value": round(mean(rows), 3), "low": round(float(low), 3), "high": round(float(high), 3), "n": len(rows), "words": words}
    return out
