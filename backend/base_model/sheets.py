"""Sheets of pictures: rendered and generated side by side, and a person's real crops beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.base_model.data import SIZE
from backend.errors import InputError
from backend.reference.archives import Limits, Refused, is_clutter, open_source
from backend.reference.decoding import EXTENSIONS, decode_image, fit_square

COLUMNS = 8
PICTURES = COLUMNS**2
GAP, TITLE = 16, 28  # pixels between blocks and of the line above them
QUALITY = 88  # of the JPEG; grain stays visible


def sheet(images: np.ndarray, columns: int = COLUMNS) -> Image.Image:
    """A contact sheet of uint8 images [N, h, w, 3]; N is cut to full rows."""
    rows = len(images) // columns
    grid = images[: rows * columns].reshape(rows, columns, *images.shape[1:]).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(np.ascontiguousarray(grid.reshape(rows * images.shape[1], columns * images.shape[2], 3)))


def side_by_side(blocks: dict[str, np.ndarray]) -> Image.Image:
    """Contact sheets of up to 64 images each, uint8 [N, h, w, 3], in one row under their titles."""
    sheets = {title: sheet(images[:PICTURES]) for title, images in blocks.items()}
    width = sum(part.width for part in sheets.values()) + GAP * (len(sheets) - 1)
    page = Image.new("RGB", (width, TITLE + max(part.height for part in sheets.values())), "white")
    pen, left = ImageDraw.Draw(page), 0
    for title, part in sheets.items():
        pen.text((left, 4), title, fill="black", font=ImageFont.load_default(16))
        page.paste(part, (left, TITLE))
        left += part.width + GAP
    return page


def save_sheet(picture: Image.Image, path: Path) -> Path:
    """Write a sheet as the JPEG or PNG that its name says.

    Raises:
        InputError: the folder cannot be written, or the ending is of no picture.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=QUALITY)
    except (OSError, ValueError) as error:
        raise InputError(f"the sheet cannot be written to {path} ({error}): name a .jpg or .png in a folder with free space") from error
    return path


def read_crops(folder: Path, names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """Real crops as square pictures, cut and resized as `reference import` does.

    Args:
        folder: folder of images; subfolders count.
        names: paths inside it, in the wanted order; None takes all of them.

    Returns:
        uint8 [N, SIZE, SIZE, 3] and the N names.

    Raises:
        InputError: no images, or one of `names` is not there or cannot be read.
    """
    limits = Limits()
    with open_source(folder, limits) as members:
        found = {m.name: m for m in members if m.name.lower().endswith(EXTENSIONS) and not is_clutter(m.name)}
        wanted = sorted(found) if names is None else list(names)
        missing = [name for name in wanted if name not in found]
        if missing or not wanted:
            which = f"{len(missing)} of {len(wanted)} crops are not there, the first is {missing[0]}" if missing else "it holds no images"
            raise InputError(f"{str(folder)!r}: {which}; name the folder that holds the crops")
        try:
            images = [fit_square(decode_image(found[name].read(), limits)[0], SIZE) for name in wanted]
        except Refused as reason:
            raise InputError(f"a crop in {str(folder)!r} cannot be used: {reason}") from reason
    return np.stack(images), wanted


def spread_over(names: Sequence[str], count: int) -> list[str]:
    """`count` of the names at even steps, so that every subfolder has its share."""
    return [names[int(i)] for i in np.linspace(0, len(names) - 1, min(count, len(names))).round()]
