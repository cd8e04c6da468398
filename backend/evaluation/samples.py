"""The recorded sample grids of a run, cut back into images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.errors import InputError
from backend.runs import Run, SampleInfo

EVOLUTION = "evolution.npz"


def spread_samples(run: Run, most: int = 8) -> list[SampleInfo]:
    """Up to `most` of the run's recorded samples, evenly spaced, first and last among them."""
    found = run.images()
    if not found:
        return []
    places = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return [found[i] for i in sorted(set(places.tolist()))]


def tiles(path: Path, description: Mapping[str, Any]) -> np.ndarray:
    """Single images of a recorded grid: uint8 [N, h, w, 3], cut by the boxes of its description.

    Raises:
        InputError: the picture or its boxes cannot be read.
    """
    try:
        with Image.open(path) as picture:
            sheet = np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise InputError(f"sample {path.name} cannot be read: {error}") from error
    boxes = [entry["box"] for entry in description.get("images", []) if len(entry.get("box", ())) == 4]
    cut = [sheet[y : y + h, x : x + w] for x, y, w, h in boxes]
    cut = [tile for tile in cut if tile.shape == cut[0].shape and tile.size]
    if not cut:
        raise InputError(f"sample {path.name} has no description of its images: it was not written by this program")
    return np.stack(cut)


def write_evolution(run: Run, measure: Any, name: str) -> None:
    """Keep the judge's features of the recorded samples in `plots/evolution.npz`, for the map of how they moved.

    Args:
        run: the run.
        measure: uint8 [N, h, w, 3] -> [N, D].
        name: what the features are called.
    """
    groups = {f"episode {sample.episode}": measure(tiles(sample.png, sample.read())) for sample in spread_samples(run)}
    if groups:
        run.plots_dir.mkdir(exist_ok=True)
        np.savez_compressed(run.plots_dir / EVOLUTION, name=np.array(name), **groups)
