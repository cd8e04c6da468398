"""The shipped reference set: chosen from a large pool of renders, and rebuilt bit for bit.

Choosing: the pool's images become features of a pretrained network, standardised and rounded; k-medoids are taken
among the aerial and among the ground views. Both the renders and the features come from `run_portably`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from backend.config.catalogue import EXTRACTORS
from backend.errors import InputError
from backend.reference.captions import caption
from backend.reference.dataset import ReferenceSet, load_reference
from backend.reference.embedding import image_features
from backend.reference.manifest import new_reference_folder, pixel_sha256, read_manifest, save_png, write_manifest
from backend.reference.portable import answer_request, run_portably
from backend.reference.renderer import CraterParameters, render, sample_parameters
from backend.reference.selection import medoids, quantise

COUNT = 73  # as many as the reference images of the system that this one follows
GROUND = 20  # of them; 28 % as among the first twenty-five training prompts
POOL = 3000
SEED = 73
SIZE = 128
EXTRACTOR = "efficientnet_lite0"
COMMAND = "python -m backend reference build"


def pool_member(seed: int, index: int) -> tuple[CraterParameters, int]:
    """Parameters and render seed of one image of the pool; independent of all others and of the pool's size."""
    rng = np.random.default_rng([seed, index])
    return sample_parameters(rng), int(rng.integers(2**31))


def build_reference(
    target: str | Path = "reference_data",
    *,
    pool: int = POOL,
    count: int = COUNT,
    ground: int = GROUND,
    seed: int = SEED,
    size: int = SIZE,
    extractor: str = EXTRACTOR,
    overwrite: bool = False,
) -> ReferenceSet:
    """Render the pool, choose the set, write it, load it back. About two minutes on one core for the defaults.

    Args:
        target: folder of the set.
        pool: images to choose from.
        count: images to choose.
        ground: how many of them are ground views.
        seed: everything random follows from it.
        size: side in pixels.
        extractor: network in whose features the images are spread.
        overwrite: replace a reference set that is there.

    Raises:
        InputError: bounds, unknown extractor, too few views of a kind in the pool, or a target that may not be written.
    """
    if not (0 <= ground <= count and 2 <= count <= pool <= 1_000_000):
        raise InputError(f"count {count}, ground {ground}, pool {pool} do not fit: 0 <= ground <= count, 2 <= count <= pool <= 1000000")
    EXTRACTORS.get(extractor)
    with new_reference_folder(Path(target), overwrite) as folder:
        request = {"folder": str(folder.resolve()), "pool": pool, "count": count, "ground": ground, "seed": seed, "size": size, "extractor": extractor}
        run_portably(__spec__.name, {"job": "build", **request})
    return load_reference(target)


def rerender_differences(folder: str | Path) -> list[str]:
    """Render each image of a simulated set again from its parameters and seed; files whose pixels then differ.

    Raises:
        InputError: the set is not simulated, or its manifest cannot be read.
    """
    manifest = read_manifest(Path(folder))
    if any("parameters" not in entry for entry in manifest["images"]):
        raise InputError(f"{str(folder)!r} has images without parameters, so they cannot be rendered again: only sets made by `{COMMAND}` can")
    return run_portably(__spec__.name, {"job": "rerender", "folder": str(Path(folder).resolve())})


def choose(features: np.ndarray, ground_view: np.ndarray, count: int, ground: int) -> list[int]:
    """Positions of the chosen images: aerial ones first, each part in ascending order.

    Args:
        features: `[N, D]`.
        ground_view: bool `[N]`.
        count: how many in all.
        ground: how many of them are ground views.

    Raises:
        InputError: the pool has too few of one view.
    """
    points, chosen = quantise(features), []
    for is_ground, wanted in ((False, count - ground), (True, ground)):
        positions = np.flatnonzero(ground_view == is_ground)
        if len(positions) < wanted:
            raise InputError(f"the pool has {len(positions)} {'ground' if is_ground else 'aerial'} views, {wanted} are wanted: enlarge it")
        if wanted:
            chosen += [int(positions[index]) for index in medoids(points[positions], wanted)]
    return chosen


def _build(folder: str, pool: int, count: int, ground: int, seed: int, size: int, extractor: str) -> int:
    parameters, seeds = zip(*(pool_member(seed, index) for index in range(pool)), strict=True)
    images = np.empty((pool, size, size, 3), np.uint8)
    for index in track(range(pool), "rendering the pool", console=Console(stderr=True)):
        images[index] = render(parameters[index], seeds[index], size)
    features, described = image_features(images, extractor)
    chosen = choose(features, np.array([p.view == "ground" for p in parameters]), count, ground)
    entries: list[dict[str, Any]] = []
    for position, index in enumerate(chosen):
        file = f"images/crater_{position:02d}.png"
        save_png(images[index], Path(folder) / file)
        entries.append(
            {
                "file": file,
                "caption": caption(parameters[index]),
                "sha256": pixel_sha256(images[index]),
                "seed": seeds[index],
                "pool_index": index,
                "parameters": parameters[index].to_dict(),
            }
        )
    recipe = {"command": COMMAND, "pool": pool, "seed": seed, "ground": ground, "extractor": described, "method": "k-medoids within each view"}
    header = {
        "name": "Simulated Martian craters",
        "simulated": True,
        "source": "rendered by backend.reference.renderer: simulated, not photographs",
        "licence": "Apache-2.0",
        "citation": "",
        "size": size,
        "recipe": recipe,
    }
    write_manifest(Path(folder), header, entries)
    return len(entries)


def _rerender(folder: str) -> list[str]:
    manifest = read_manifest(Path(folder))
    differ = []
    for entry in manifest["images"]:
        image = render(CraterParameters.from_dict(entry["parameters"]), int(entry["seed"]), int(manifest["size"]))
        if pixel_sha256(image) != entry["sha256"]:
            differ.append(entry["file"])
    return differ


def _job(job: str, **arguments: Any) -> Any:
    return {"build": _build, "rerender": _rerender}[job](**arguments)


if __name__ == "__main__":
    raise SystemExit(answer_request(_job))
