"""Rendered training pairs on disk, in shards, so that an interrupted rendering goes on where it was."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.reference.renderer import CraterParameters, render_batch, sample_parameters
from backend.runs.files import atomic_file

SHARD = 256
SIZE = 128

Draw = Callable[[np.random.Generator, int], np.ndarray]  # indices int [B] of a batch of B images


def alike(count: int) -> Draw:
    """Draws every one of `count` images with the same chance."""
    return lambda rng, batch: rng.integers(0, count, size=batch)


def mixture(first: int, second: int, share: float) -> Draw:
    """Draws from two sets that stand one behind the other: from the second, of `second` images, with probability `share`."""

    def draw(rng: np.random.Generator, batch: int) -> np.ndarray:
        from_second = rng.random(batch) < share
        return np.where(from_second, first + rng.integers(0, max(second, 1), size=batch), rng.integers(0, first, size=batch))

    return draw


def shard_path(folder: Path, index: int) -> Path:
    """Images of one shard; its parameters stand beside it as JSON."""
    return folder / f"shard_{index:05d}.npy"


def render_shard(folder: Path, index: int, seed: int) -> Path:
    """Render one shard of `SHARD` images and write it atomically.

    Args:
        folder: where shards lie.
        index: number of the shard; with `seed` it fixes every random number.
        seed: seed of the data set.
    """
    path = shard_path(folder, index)
    if path.exists():
        return path
    rng = np.random.default_rng([seed, index])
    params = [sample_parameters(rng) for _ in range(SHARD)]
    seeds = rng.integers(0, 2**31 - 1, size=SHARD).tolist()
    images = np.concatenate([render_batch(params[i : i + 32], seeds[i : i + 32], size=SIZE) for i in range(0, SHARD, 32)])
    meta = path.with_suffix(".json")
    meta.write_text(json.dumps([p.to_dict() for p in params]), encoding="utf-8")
    with atomic_file(path) as file:
        np.save(file, images, allow_pickle=False)
    return path


def render_dataset(folder: Path, count: int, seed: int, workers: int | None = None) -> Iterator[int]:
    """Render until `count` images are there; yields the number of finished images after each shard."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-count // SHARD)
    missing = [i for i in range(shards) if not shard_path(folder, i).exists()]
    done = (shards - len(missing)) * SHARD
    if not missing:
        yield done
        return
    with ProcessPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        for _ in pool.map(render_shard, [folder] * len(missing), missing, [seed] * len(missing)):
            done += SHARD
            yield done


def load_dataset(folder: Path, count: int | None = None) -> tuple[np.ndarray, list[CraterParameters]]:
    """Images uint8 [N, SIZE, SIZE, 3] and their parameters, in shard order, of the folder `renders` of a work folder.

    Raises:
        InputError: there is no shard, or there are fewer than `count` images.
    """
    paths = sorted(folder.glob("shard_*.npy"))
    remedy = " ".join(["python -m backend base-model render", *([] if count is None else [f"--images {count}"]), f"--work {shlex.quote(str(folder.parent))}"])
    if not paths:
        raise InputError(f"no rendered shards in {folder}: run `{remedy}` first")
    if count is not None:
        if len(paths) * SHARD < count:
            raise InputError(f"{folder} holds {len(paths) * SHARD} renders of the {count} that are needed: run `{remedy}` first")
        paths = paths[: -(-count // SHARD)]
    images = np.concatenate([np.load(p, allow_pickle=False) for p in paths])
    params = [CraterParameters.from_dict(d) for p in paths for d in json.loads(p.with_suffix(".json").read_text(encoding="utf-8"))]
    return images[:count], params[:count]


def augment(images: np.ndarray, aerial: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror every image at random and turn aerial ones by quarter turns; the sun turns with them, captions do not name it.

    Args:
        images: uint8 [B, h, w, 3].
        aerial: bool [B].
        rng: source of randomness.
    """
    out = images.copy()
    for i in range(len(out)):
        if rng.random() < 0.5:
            out[i] = out[i, :, ::-1]
        if aerial[i]:
            out[i] = np.rot90(out[i], int(rng.integers(0, 4)))
    return out
