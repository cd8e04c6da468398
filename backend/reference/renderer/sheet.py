"""A sheet of rendered pictures, one labelled row per word of a field.

python -m backend.reference.renderer.sheet --field kind --out docs/figures/renderer_kinds.jpg [--columns 8] [--seed 3]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from backend.errors import InputError
from backend.reference.renderer import INTERIORS, KINDS, RIMS, SENSORS, TERRAINS, VIEWS, render_batch, sample_parameters

FIELDS = {"view": VIEWS, "kind": KINDS, "terrain": TERRAINS, "rims": RIMS, "interiors": INTERIORS, "sensor": SENSORS}
LABEL = 118


def sheet(field: str, columns: int, seed: int, size: int = 96) -> Image.Image:
    """A picture with one row for every word of `field`; the last quarter of each row shows the ground view, except for views and instruments.

    Raises InputError for an unknown field or fewer than one column."""
    if field not in FIELDS:
        raise InputError(f"field is {field!r}; known are {', '.join(FIELDS)}")
    if columns < 1:
        raise InputError(f"columns is {columns}; give at least 1")
    rng = np.random.default_rng(seed)
    canvas = Image.new("RGB", (LABEL + columns * (size + 2), len(FIELDS[field]) * (size + 2)), "white")
    draw = ImageDraw.Draw(canvas)
    for row, word in enumerate(FIELDS[field]):
        views = [{} if field in ("view", "sensor") else {"view": "ground" if column >= columns - columns // 4 else "aerial"} for column in range(columns)]
        params = [sample_parameters(rng, **{field: word}, **view) for view in views]
        images = render_batch(params, [seed * 1000 + row * columns + column for column in range(columns)], size=size)
        draw.text((4, row * (size + 2) + size // 2 - 5), word, fill="black")
        for column, image in enumerate(images):
            canvas.paste(Image.fromarray(image), (LABEL + column * (size + 2), row * (size + 2)))
    return canvas


def main(arguments: list[str] | None = None) -> int:
    """Command line. Exit status 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m backend.reference.renderer.sheet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--field", default="kind")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args(arguments)
    try:
        picture = sheet(args.field, args.columns, args.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.out, quality=88)
    print(f"{args.out}: {len(FIELDS[args.field])} rows of {args.columns}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
