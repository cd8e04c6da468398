"""What an evaluation leaves in the run directory: numbers, a table, a picture, pairs of images, features for the map."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from backend.runs import Run
from backend.runs.files import write_json

FOLDER = "evaluation"
PICTURE = "evaluation.png"
PAIRS = 24  # pairs kept for the page's slider
COLUMNS = 8  # of the picture
LEVELS = ("base", "tuned", "ceiling", "reference")  # sets whose levels stand side by side in every table of an evaluation, under their names with a capital


def number(value: Any) -> str:
    """Four significant digits, a dash for what is missing."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(evaluation: Mapping[str, Any]) -> str:
    """The table of an evaluation in Markdown, with what has to be known to read it."""
    lines = [f"| Measure | {' | '.join(map(str.capitalize, LEVELS))} | Change or share | 95 % interval |", f"| --- | {'---: | ' * len(LEVELS)}---: | --- |"]
    for row in evaluation["table"]:
        interval = "–" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}"
        levels = [number(row.get(name)) for name in LEVELS]
        lines.append(f"| {row['measure']} | {' | '.join(levels)} | {number(row['estimate'])} | {interval} |")
    return "\n".join([*lines, "", *[f"- {note}" for note in evaluation["notes"]]]) + "\n"


def picture(base: np.ndarray, tuned: np.ndarray, path: Path) -> None:
    """One PNG: rows of base above tuned images at the same prompts and seeds.

    Args:
        base, tuned: uint8 [N, h, w, 3]; the first two rows' worth is shown.
        path: file to write.
    """
    shown = min(2 * COLUMNS, len(base))
    columns, height, width, gap, label = min(COLUMNS, shown), *base.shape[1:3], 4, 48
    rows = -(-shown // columns)
    sheet = Image.new("RGB", (label + columns * (width + gap), rows * 2 * (height + gap) + (rows - 1) * 3 * gap), "white")
    pen = ImageDraw.Draw(sheet)
    for i in range(shown):
        row, column = divmod(i, columns)
        top = row * (2 * (height + gap) + 3 * gap)
        for line, (name, images) in enumerate((("base", base), ("tuned", tuned))):
            y = top + line * (height + gap)
            sheet.paste(Image.fromarray(images[i]), (label + column * (width + gap), y))
            if column == 0:
                pen.text((6, y + height // 2 - 5), name, fill="black")
    sheet.save(path)


def write_pairs(folder: Path, base: np.ndarray, tuned: np.ndarray, captions: list[str], seeds: list[int], near: tuple[np.ndarray, np.ndarray]) -> list[dict[str, Any]]:
    """PNGs of the first pairs.

    Args:
        folder: target.
        base, tuned: uint8 [N, h, w, 3].
        captions, seeds: [N].
        near: distance [N] and index [N] of the nearest reference image of each tuned image.

    Returns:
        One entry per pair: prompt, seed, file names, nearest reference image and its distance.
    """
    entries = []
    for i in range(min(PAIRS, len(base))):
        names = {"base": f"base_{i:03d}.png", "tuned": f"tuned_{i:03d}.png"}
        Image.fromarray(base[i]).save(folder / names["base"])
        Image.fromarray(tuned[i]).save(folder / names["tuned"])
        entries.append({"prompt": captions[i], "seed": seeds[i], **names, "nearest": int(near[1][i]), "distance": float(near[0][i])})
    return entries


def write_results(
    run: Run,
    evaluation: dict[str, Any],
    pictures: tuple[np.ndarray, np.ndarray],
    drawn: tuple[list[str], list[int]],
    features: Mapping[str, np.ndarray],
    near: tuple[np.ndarray, np.ndarray],
) -> None:
    """Write the folder `evaluation`, then `evaluation.json` and `evaluation.png`; an evaluation that stands is given up only when the new one is written.

    Args:
        run: the run.
        evaluation: JSON-able numbers; `pairs` is added.
        pictures: base and tuned, uint8 [N, h, w, 3].
        drawn: captions and seeds [N].
        features: name -> [*, D] of the judge, for the map.
        near: distance [N] and index [N] of the nearest reference image of each tuned image.

    Raises:
        OSError: the disk refused, and what stood before still stands.
    """
    work, aside, target = run.path / f".{FOLDER}.tmp", run.path / f".{FOLDER}.old", run.path / FOLDER
    for left in (work, aside):
        shutil.rmtree(left, ignore_errors=True)
    try:
        work.mkdir()
        evaluation["pairs"] = write_pairs(work, *pictures, *drawn, near)
        np.savez_compressed(work / "features.npz", **{name: values.astype(np.float32) for name, values in features.items()})
        (work / "table.md").write_text(markdown(evaluation), encoding="utf-8")
        picture(*pictures, work / PICTURE)
        if target.exists():
            target.rename(aside)
        work.rename(target)
        write_json(run.evaluation_path, evaluation)
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        if aside.exists():
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
        raise
    (target / PICTURE).replace(run.path / PICTURE)
    shutil.rmtree(aside, ignore_errors=True)


def evaluated_name(run: Run, checkpoint: str | None) -> str:
    """How an evaluation names the checkpoint.

    Raises:
        InputError: there is none of that name.
    """
    return checkpoint if checkpoint and "+" in checkpoint else run.checkpoint(checkpoint).name


def images_judged(evaluation: Mapping[str, Any]) -> int:
    """Images of a run's evaluation; 0 where it does not say, or is none."""
    images = evaluation.get("images")
    return images if isinstance(images, int) else 0


def lost_by(run: Run, checkpoint: str, images: int) -> str:
    """What would be lost if the run's evaluation were replaced, as a sentence; empty where the new one is of the same checkpoint and of no fewer images.

    Args:
        run: whose evaluation stands.
        checkpoint: name of the one to be evaluated.
        images: of the new evaluation.
    """
    standing = run.evaluation() or {}
    before, name = images_judged(standing), str(standing.get("checkpoint", "an unnamed checkpoint"))
    if not before or (name == checkpoint and images >= before):
        return ""
    gap = standing.get("gap_closed")
    closed = f" and its gap closed of {round(gap, 2) + 0.0:.0%}" if isinstance(gap, int | float) else ""
    return f"The run keeps one evaluation: that of {name} with {before:,} images{closed} would be lost to one of {checkpoint} with {images:,}."


def load_map(run: Run) -> dict[str, np.ndarray] | None:
    """Judge's features of the run's evaluation, name -> [N, D], for `analysis.feature_figures.feature_map`; None without one."""
    path = run.path / FOLDER / "features.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
