"""Checkpoints: whole or absent, checksummed, the newest few and the best kept, a damaged one named and passed over."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from backend.runs import CheckpointInfo, Run
from backend.runs.files import atomic_write, disk_errors, fsync_folder, read_json, write_json
from backend.training.packing import pack, unpack

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass
class Loaded:
    """A checkpoint that was read: its state, and a sentence for each damaged one that was passed over."""

    info: CheckpointInfo
    state: dict[str, Any]
    passed_over: list[str]


def checkpoint_name(episode: int) -> str:
    """Folder of the checkpoint after so many completed episodes."""
    return f"episode_{episode:06d}"


def save_checkpoint(run: Run, episode: int, state: dict[str, Any], save_policy: Callable[[Path], Any], score: float | None = None) -> Path:
    """Write a checkpoint under a temporary name, fsync it, then put it in place.

    Args:
        run: whose checkpoint.
        episode: completed episodes.
        state: anything that `packing.pack` takes.
        save_policy: writes the policy's weights into a folder, in the format that others load.
        score: what `best` is judged by; None never becomes the best.

    Raises:
        OSError: full or read-only disk; earlier checkpoints are untouched and nothing half-written is left.
    """
    work = run.checkpoints_dir / f".tmp-{uuid.uuid4().hex}"
    try:
        work.mkdir()
        (work / "policy").mkdir()
        skeleton, tensors = pack(state)
        with disk_errors():
            save_policy(work / "policy")
            save_file(tensors, work / "trainer.safetensors")
        (work / "trainer.json").write_text(json.dumps(skeleton), encoding="utf-8")
        files = sorted(p for p in work.rglob("*") if p.is_file())
        entries = {p.relative_to(work).as_posix(): {"sha256": file_sha256(p, sync=True), "bytes": p.stat().st_size} for p in files}
        write_json(work / MANIFEST, {"format": FORMAT, "episode": episode, "score": score, "time": round(time.time(), 3), "files": entries})
        return _put_in_place(run, work, checkpoint_name(episode))
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _put_in_place(run: Run, work: Path, name: str) -> Path:
    target = run.checkpoints_dir / name
    if target.exists():
        old = run.checkpoints_dir / f".old-{uuid.uuid4().hex}"
        os.rename(target, old)
        os.rename(work, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(work, target)
    fsync_folder(run.checkpoints_dir)
    return target


def file_sha256(path: Path, sync: bool = False) -> str:
    """Checksum of a file's content; with `sync` the content is on the disk before it returns."""
    digest = hashlib.sha256()
    with open(path, "rb+" if sync else "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest()


def damage(path: Path) -> str:
    """What is wrong with a checkpoint's folder; empty where it is sound."""
    manifest = read_json(path / MANIFEST)
    files = manifest.get("files") if manifest else None
    if not isinstance(files, dict) or "trainer.safetensors" not in files or "trainer.json" not in files:
        return f"{path.name} has no readable manifest"
    if manifest.get("format") != FORMAT:
        return f"{path.name} is of format {manifest.get('format')!r}, this program reads {FORMAT}"
    for name, entry in files.items():
        file = path / name
        if ".." in Path(name).parts or Path(name).is_absolute() or file.is_symlink() or not file.is_file():
            return f"{path.name} lacks {name}"
        if file_sha256(file) != entry.get("sha256"):
            return f"{path.name} is damaged: {name} does not have the checksum of its manifest"
    return ""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The training state of a sound checkpoint.

    Raises:
        ValueError: it is damaged; the message says how.
    """
    if fault := damage(path):
        raise ValueError(fault)
    try:
        return unpack(json.loads((path / "trainer.json").read_text(encoding="utf-8")), load_file(path / "trainer.safetensors"))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read: {type(error).__name__}: {error}") from error


def newest_sound(run: Run, at_most: int | None = None, every: int = 1) -> Loaded | None:
    """The newest checkpoint that can be read, or None where there is none.

    Args:
        run: whose checkpoints.
        at_most: no newer than after so many episodes.
        every: only those after a multiple of so many episodes.
    """
    passed_over: list[str] = []
    for info in reversed(run.checkpoints()):
        if (at_most is not None and info.episode > at_most) or info.episode % every:
            continue
        try:
            return Loaded(info, read_checkpoint(info.path), passed_over)
        except ValueError as error:
            passed_over.append(str(error))
    return None


def put_away(run: Run, info: CheckpointInfo) -> str:
    """Rename a damaged checkpoint, so that it no longer counts as the newest and pushes no sound one out.

    Returns:
        The folder's new name; nothing lists it or removes it.

    Raises:
        OSError: the folder cannot be written.
    """
    name = f".damaged-{info.name}-{uuid.uuid4().hex[:8]}"
    os.rename(info.path, run.checkpoints_dir / name)
    return name


def sweep(run: Run) -> None:
    """Remove what a killed writer left half-written; put back an old checkpoint whose replacement never came."""
    for folder in (run.checkpoints_dir, run.images_dir, run.logs_dir):  # where only the trainer writes
        for path in folder.glob(".tmp-*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for path in run.checkpoints_dir.glob(".old-*"):
        episode = (read_json(path / MANIFEST) or {}).get("episode")
        if isinstance(episode, int) and not (run.checkpoints_dir / checkpoint_name(episode)).exists():
            os.rename(path, run.checkpoints_dir / checkpoint_name(episode))
        else:
            shutil.rmtree(path, ignore_errors=True)


def set_aside(run: Run, since: int) -> None:
    """Checkpoints of up to `since` episodes no longer compete for the best: guidance or share of the reference set, which move the score, were others."""
    for info in run.checkpoints():
        manifest = read_json(info.path / MANIFEST) if info.episode <= since else None
        if manifest and manifest.get("score") is not None:
            write_json(info.path / MANIFEST, manifest | {"score": None, "score_before": manifest["score"]})


def keep_and_prune(run: Run, keep_last: int) -> str | None:
    """Mark the best checkpoint and remove all but it and the newest `keep_last`.

    Returns:
        Name of the best, or None where no checkpoint has a score.

    Raises:
        OSError: best.json cannot be written; then nothing is removed.
    """
    infos = run.checkpoints()
    scores = {info.name: score for info in infos if isinstance(score := (read_json(info.path / MANIFEST) or {}).get("score"), int | float)}
    best = max(scores, key=lambda name: (scores[name], name)) if scores else None
    if best is not None:
        atomic_write(run.checkpoints_dir / "best.json", json.dumps({"checkpoint": best, "score": scores[best]}) + "\n")
    for info in infos[:-keep_last]:
        if info.name != best:
            grave = run.checkpoints_dir / f".tmp-{uuid.uuid4().hex}"
            os.rename(info.path, grave)
            shutil.rmtree(grave, ignore_errors=True)
    return best
