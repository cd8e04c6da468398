"""What the Compare tab shows, from images already drawn: neighbours, maps, tables. No network is needed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.runs import Run
from components.markup import Raw, empty, note, number, table, text
from components.pictures import data_address, nearest, plain_features, same_size

PREVIEW = 96


@dataclass
class Pairs:
    """Base and tuned images of the same prompts and seeds.

    Attributes:
        base, tuned: uint8 [N, h, w, 3].
        prompts, seeds: N each.
        base_title, tuned_title: what they are, for captions.
    """

    base: np.ndarray
    tuned: np.ndarray
    prompts: list[str]
    seeds: list[int]
    base_title: str
    tuned_title: str


def recorded_pairs(run: Run) -> Pairs | None:
    """First and newest sample grid of a run: the same prompts and seeds, so corresponding pairs; None without samples."""
    from backend.analysis.feature_figures import tiles

    samples = run.images()
    if not samples:
        return None
    first, last = samples[0], samples[-1]
    about = last.read()
    base, tuned = tiles(first.png, first.read()), tiles(last.png, about)
    count = min(len(base), len(tuned))
    entries = about.get("images", [])[:count]
    before = "before training" if first.episode == 0 else f"episode {first.episode}"
    return Pairs(base[:count], tuned[:count], [str(e.get("prompt", "")) for e in entries], [int(e.get("seed", 0)) for e in entries], before, f"episode {last.episode}")


def neighbours(pairs: Pairs, reference: np.ndarray, captions: list[str], label: str) -> str:
    """Each generated image with its nearest reference image and the distance, same size and contrast."""
    side = pairs.tuned.shape[1]
    index, distance = nearest(plain_features(same_size(pairs.tuned, side)), plain_features(same_size(reference, side)))
    typical = float(np.median(distance))
    cells = []
    for i, image in enumerate(pairs.tuned):
        j = int(index[i])
        words, other = text(pairs.prompts[i]), text(captions[j] if j < len(captions) else "")
        close = " (close)" if distance[i] < 0.5 * typical else ""
        cells.append(
            f'<figure class="pair"><div class="pair-images"><img src="{data_address(image)}" alt="generated: {words}" title="{words}">'
            f'<img src="{data_address(reference[j], side)}" alt="nearest reference image: {other}" title="{other}"></div>'
            f"<figcaption>distance {number(distance[i], 3)}{close} · seed {pairs.seeds[i]}</figcaption></figure>"
        )
    measure = "root mean square distance over wavelet statistics and measured crater attributes"
    head = f'<h2 class="section-title">Generated, {text(pairs.tuned_title)}, beside the nearest reference image <small>{text(label)}; {measure}</small></h2>'
    return f'{head}<div class="strip pairs">{"".join(cells)}</div>'


def map_figure(pairs: Pairs, reference: np.ndarray, captions: list[str], method: str) -> dict[str, Any]:
    """Base, tuned and reference images in one projection; hovering shows the picture."""
    from backend.analysis.feature_figures import feature_map

    side = pairs.tuned.shape[1]
    groups = {pairs.base_title: pairs.base, pairs.tuned_title: pairs.tuned, "reference": same_size(reference, side)}
    figure = feature_map({name: plain_features(images) for name, images in groups.items()}, method)
    titles = {pairs.base_title: pairs.prompts, pairs.tuned_title: pairs.prompts, "reference": captions}
    for trace, (name, images) in zip(figure["data"], groups.items(), strict=True):
        trace["customdata"] = [[data_address(image, PREVIEW, 80), f"{name}: {titles[name][i] if i < len(titles[name]) else ''}"] for i, image in enumerate(images)]
        trace["hovertemplate"] = name + "<extra></extra>"
    figure["layout"].pop("title", None)
    return {"key": method + pairs.tuned_title, **figure}


def evaluation_table(run: Run) -> str:
    """The final evaluation: base, tuned, ceiling, change with its interval; says how to get one where there is none."""
    found = run.evaluation()
    if not found:
        return empty(
            "Not evaluated yet",
            "The evaluation runs at the end of a training, or by `python -m backend evaluate`; it draws base and tuned images of test prompts with the same seeds.",
        )
    rows = []
    for row in found.get("table") or found.get("rows") or []:
        interval = "–" if row.get("low") is None else f"{number(row['low'], 3)} to {number(row['high'], 3)}"
        rows.append([row.get("measure", ""), number(row.get("base")), number(row.get("tuned")), number(row.get("ceiling")), number(row.get("estimate"), 3), interval])
    sentence = found.get("summary") or found.get("sentence") or ""
    return (note(str(sentence)) if sentence else "") + table(["Measure", "Base", "Tuned", "Ceiling", "Change", "95 % interval"], rows, caption="Evaluation on test prompts")


def pair_count(pairs: Pairs | None) -> int:
    """Number of pairs, 0 for none."""
    return 0 if pairs is None else len(pairs.tuned)


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
