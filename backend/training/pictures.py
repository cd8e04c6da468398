"""Image grids of a run: one PNG, and one JSON that says where each image lies and what is known of it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from backend.runs.files import atomic_write, write_json

GAP = 2  # pixels between images
BACKGROUND = 24


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Images [N, 3, h, w] in [0, 1] as uint8 [N, h, w, 3]; values that are not finite become black."""
    clean = torch.nan_to_num(images.detach().float().cpu(), 0.0, 1.0, 0.0).clamp(0, 1)
    return (clean * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def layout(count: int, tile: tuple[int, int], columns: int | None = None) -> dict[str, Any]:
    """Where images lie in a grid.

    Args:
        count: N images.
        tile: (width, height) of one.
        columns: images in a row; by default about as many as rows.

    Returns:
        `columns`, `rows`, `tile`, `gap`, `size` [width, height] and `boxes`, one [x, y, w, h] per image.
    """
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    width, height = tile
    boxes = [[(i % columns) * (width + GAP), (i // columns) * (height + GAP), width, height] for i in range(count)]
    return {
        "columns": columns,
        "rows": rows,
        "tile": [width, height],
        "gap": GAP,
        "size": [columns * (width + GAP) - GAP, rows * (height + GAP) - GAP],
        "boxes": boxes,
    }


def save_grid(path: Path, images: torch.Tensor, descriptions: Sequence[dict[str, Any]], columns: int | None = None, **facts: Any) -> None:
    """Write `<path>.png` and `<path>.json`, the description first, so that no picture is ever without one.

    Args:
        path: without suffix.
        images: [N, 3, h, w] in [0, 1].
        descriptions: N dictionaries (prompt, seed, credit, ...); each gets its `index` and `box`.
        columns: images in a row.
        facts: go into the JSON beside the images.

    Raises:
        OSError: the disk refuses.
    """
    pixels = to_uint8(images)
    place = layout(len(pixels), (pixels.shape[2], pixels.shape[1]), columns)
    boxes = place.pop("boxes")
    canvas = np.full((place["size"][1], place["size"][0], 3), BACKGROUND, np.uint8)
    for pixel, (x, y, w, h) in zip(pixels, boxes, strict=True):
        canvas[y : y + h, x : x + w] = pixel
    entries = [{"index": i, **known, "box": box} for i, (known, box) in enumerate(zip(descriptions, boxes, strict=True))]
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG", compress_level=4)
    write_json(path.with_suffix(".json"), {**facts, **place, "images": entries})
    atomic_write(path.with_suffix(".png"), buffer.getvalue())
