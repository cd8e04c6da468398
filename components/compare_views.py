"""What the Compare tab shows, from images already drawn: neighbours, maps, tables. No network is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import InputError
from backend.evaluation.guards import verdict_of
from backend.evaluation.results import LEVELS
from backend.runs import Run
from components.markup import Raw, empty, note, number, table, text
from components.pictures import data_address, nearest, plain_features, same_size

PREVIEW = 96
PLAIN = "root mean square distance over wavelet statistics and measured crater attributes"
MOST_ON_MAP = 400  # points of each set
GUARDED = {
    "yes": ("Quality guards kept.", "good"),
    "no": ("Quality guards not kept: see the notes.", "warn"),
    "not settled": ("So few images do not settle the quality guards: see the notes.", "warn"),
}


@dataclass
class Pairs:
    """Base and tuned images of the same prompts and seeds.

    Attributes:
        base, tuned: uint8 [N, h, w, 3].
        prompts, seeds: N each.
        base_title, tuned_title: what they are, for captions.
        near: index [N] and distance [N] of the nearest reference image of each tuned one, where the evaluation measured it.
        measure: what the distance is.
        about: which pairs they are, in words.
        drawn: a person had them drawn on this page.
    """

    base: np.ndarray
    tuned: np.ndarray
    prompts: list[str]
    seeds: list[int]
    base_title: str
    tuned_title: str
    near: tuple[np.ndarray, np.ndarray] | None = None
    measure: str = PLAIN
    about: str = ""
    drawn: bool = False


def state_of(run: Run) -> dict[str, Any]:
    """What tells whether a run must be shown again: `run` which it is, `pictures` its newest sample and its evaluation, `checkpoints` their names and the best."""
    newest = [(sample.episode, written(sample.png)) for sample in run.images()[-1:]]
    return {"run": str(run.path), "pictures": [*newest, written(run.evaluation_path)], "checkpoints": [(c.name, c.best) for c in run.checkpoints()]}


def written(path: Path) -> int:
    """When a file was written last, in nanoseconds; 0 where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def evaluated_pairs(run: Run) -> Pairs | None:
    """Pairs of the run's evaluation on test prompts, with the judge's nearest reference images; None without one."""
    found = run.evaluation() or {}
    entries = [e for e in found.get("pairs", []) if isinstance(e, Mapping)]
    folder = run.path / "evaluation"
    try:
        base, tuned = ([_read(folder / f"{kind}_{i:03d}.png") for i in range(len(entries))] for kind in ("base", "tuned"))
    except OSError:
        return None
    if not entries:
        return None
    near = np.array([int(e.get("nearest", 0)) for e in entries]), np.array([float(e.get("distance", 0.0)) for e in entries])
    judge = (found.get("judge") or {}).get("extractor", "the judge")
    prompts, seeds = [str(e.get("prompt", "")) for e in entries], [int(e.get("seed", 0)) for e in entries]
    whole = found.get("images", len(entries))
    about = f"{'all' if whole == len(entries) else 'the first'} {len(entries)} of the {number(whole)} pairs of the run's evaluation"
    return Pairs(np.stack(base), np.stack(tuned), prompts, seeds, "base model", str(found.get("checkpoint", "tuned")), near, f"distance in the features of {judge}", about)


def _read(path: Path) -> np.ndarray:
    if path.is_symlink():
        raise FileNotFoundError(2, "not a regular file", str(path))
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def recorded_pairs(run: Run) -> Pairs | None:
    """Pairs that need no drawing: the evaluation's, else the first and newest sample grid; None without either."""
    from backend.analysis.feature_figures import tiles

    evaluated, samples = evaluated_pairs(run), run.images()
    if evaluated is not None or not samples:
        return evaluated
    first, last = samples[0], samples[-1]
    about = last.read()
    base, tuned = tiles(first.png, first.read()), tiles(last.png, about)
    count = min(len(base), len(tuned))
    entries = about.get("images", [])[:count]
    before = "before training" if first.episode == 0 else f"episode {first.episode}"
    prompts, seeds = [str(e.get("prompt", "")) for e in entries], [int(e.get("seed", 0)) for e in entries]
    return Pairs(base[:count], tuned[:count], prompts, seeds, before, f"episode {last.episode}", about=f"the run's own {count} samples")


def neighbours(pairs: Pairs, reference: np.ndarray, captions: list[str], label: str) -> str:
    """Each generated image with its nearest reference image and the distance, same size and contrast."""
    side = pairs.tuned.shape[1]
    index, distance = pairs.near or nearest(plain_features(pairs.tuned), plain_features(same_size(reference, side)))
    typical = float(np.median(distance))
    cells = []
    for i, image in enumerate(pairs.tuned):
        j = min(int(index[i]), len(reference) - 1)
        words, other = text(f"{pairs.prompts[i]}, seed {pairs.seeds[i]}"), text(captions[j] if j < len(captions) else "")
        close = " (close)" if distance[i] < 0.5 * typical else ""
        cells.append(
            f'<figure class="pair"><div class="pair-images"><img src="{data_address(image)}" alt="generated: {words}" title="{words}">'
            f'<img src="{data_address(reference[j])}" alt="nearest reference image: {other}" title="{other}"></div>'
            f"<figcaption>distance {number(distance[i], 3)}{close}</figcaption></figure>"
        )
    told = "; ".join(text(part) for part in (f"{pairs.tuned_title}: {pairs.about}" if pairs.about else pairs.tuned_title, label, pairs.measure))
    head = f'<h2 class="section-title">Generated (left) beside the nearest reference image (right) <small>{told}</small></h2>'
    return f'{head}<div class="strip pairs">{"".join(cells)}</div>'


def map_figure(run: Run, pairs: Pairs, reference: np.ndarray, captions: list[str], method: str) -> dict[str, Any]:
    """Base, tuned and reference images in one projection: the judge's features where an evaluation left them, else plain ones."""
    from backend.analysis.feature_figures import feature_map

    side = pairs.tuned.shape[1]
    some = same_size(reference[:MOST_ON_MAP], side)  # before anything is measured: an imported set may have thousands
    pictures = {pairs.base_title: (pairs.base, pairs.prompts), pairs.tuned_title: (pairs.tuned, pairs.prompts), "reference": (some, captions)}
    names = {"base": pairs.base_title, "tuned": pairs.tuned_title, "reference": "reference", "ceiling": "obedient and fully diverse (renders)"}
    stored = judge_features(run) if pairs.near is not None else None
    groups = {names[k]: v[:MOST_ON_MAP] for k, v in stored.items() if k in names} if stored else {name: plain_features(images) for name, (images, _) in pictures.items()}
    figure = feature_map(groups, method)
    for trace, name in zip(figure["data"], groups, strict=True):
        images, words = pictures.get(name, ((), ()))
        custom = [[data_address(image, PREVIEW, 80), f"{name}: {words[i] if i < len(words) else ''}"] for i, image in enumerate(images[: len(trace["x"])])]
        trace["customdata"] = custom + [None] * (len(trace["x"]) - len(custom))
        trace["hovertemplate"] = text(name) + "<extra></extra>"
        trace["name"] = text(name)
    figure["layout"].pop("title", None)
    return {"key": method + pairs.tuned_title, **figure, "layout": {**figure["layout"], "height": 430}}


def evolution_figure(run: Run, method: str) -> dict[str, Any] | None:
    """The recorded samples of all episodes in one projection; None before there are enough."""
    from backend.analysis.feature_figures import evolution

    figure = evolution(run, method)
    figure["layout"].pop("title", None)
    return {"key": method + run.id, **figure} if figure["data"] else None


def judge_features(run: Run) -> dict[str, np.ndarray] | None:
    """Features that the evaluation's judge measured, by set."""
    path = run.path / "evaluation" / "features.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def evaluation_table(run: Run) -> str:
    """The final evaluation: base, tuned, ceiling, reference, change with its interval; says how to get one where there is none."""
    found = run.evaluation()
    if not found:
        return empty("Not evaluated yet", "It runs at the end of a training, or with the button above: images of test prompts, same seeds, judged by another network.")
    rows = []
    for row in found.get("table", []):
        interval = "–" if row.get("low") is None else f"{number(row['low'], 3)} to {number(row['high'], 3)}"
        levels = [number(row.get(name)) for name in LEVELS]
        rows.append([row.get("measure", ""), *levels, number(row.get("estimate"), 3), interval])
    guards = found.get("guards") or {}
    verdict = ""
    if "passed" in guards:
        verdict = note(*GUARDED[verdict_of(guards)])
    remarks = "".join(f"<li>{text(line)}</li>" for line in found.get("notes", []))
    head = ["Measure", *map(str.capitalize, LEVELS), "Change or share", "95 % interval"]
    return table(head, rows, caption=f"Evaluation of {found.get('checkpoint', '')} on test prompts") + verdict + f'<ul class="caption">{remarks}</ul>'


def check_pairs(pairs: Pairs | None) -> Pairs:
    """The pairs.

    Raises:
        InputError: there are none.
    """
    if pairs is None or not len(pairs.tuned):
        raise InputError("no samples yet: they appear with the first episode")
    return pairs


def nothing(reason: str) -> Raw:
    """What stands where nothing can be compared."""
    return Raw(empty("Nothing to compare yet", reason))
