"""Weights that are not part of the installation: from the cache, or by a download that says so first."""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from backend.errors import InputError

TIMEOUT = 20  # seconds without an answer before a download is given up
BLOCK = 1 << 20


def hub_folder() -> Path:
    """Where torch keeps downloaded weights: `$TORCH_HOME/hub/checkpoints`."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def file_sha256(path: Path) -> str:
    """Hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def announce(text: str) -> None:
    """One line on standard error: where a person at a terminal, or a run's log, sees it."""
    print(text, file=sys.stderr, flush=True)


def download(url: str, path: Path, prefix: str, what: str) -> Path:
    """Fetch a file, with progress on standard error, and put it in place only once its hash is right.

    Args:
        url: where from.
        path: where to; its folder is made.
        prefix: first digits of its sha256.
        what: its name in messages.

    Raises:
        InputError: the server cannot be reached or the file is not the known one; names the file to put there by hand.
    """
    announce(f"Downloading {what} from {url}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    remedy = f"go online, or put the file there from another machine, or choose the extractor efficientnet_lite0, which needs no download: {url} -> {path}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, temporary.open("wb") as out:
            total, done, shown = int(answer.headers.get("Content-Length") or 0), 0, 0
            while block := answer.read(BLOCK):
                out.write(block)
                done += len(block)
                if total and done * 10 // total > shown:
                    shown = done * 10 // total
                    announce(f"  {what}: {shown * 10} % of {total / 1e6:.0f} MB")
        found = file_sha256(temporary)
        if not found.startswith(prefix):
            raise InputError(f"{what} from {url} has sha256 {found[:12]}…, expected {prefix}…: the download is damaged, try again", field="extractor")
        os.replace(temporary, path)
    except OSError as error:  # urllib's errors and time-outs are OSErrors
        raise InputError(f"{what} cannot be downloaded ({getattr(error, 'reason', error)}): {remedy}", field="extractor") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def torch_weights(url: str, prefix: str, what: str, folder: Path | None = None) -> tuple[dict[str, Tensor], str]:
    """A state dict from torch's cache, downloaded where it is missing; and its sha256.

    Args:
        url: of the file; its last part is its name in the cache.
        prefix: first digits of the file's sha256, checked on download.
        what: its name in messages.
        folder: cache; torch's own unless given.

    Raises:
        InputError: see `download`; or the cached file is not a state dict.
    """
    path = (folder or hub_folder()) / url.rsplit("/", 1)[-1]
    if not path.is_file():
        download(url, path, prefix, what)
    try:
        return torch.load(path, map_location="cpu", weights_only=True), file_sha256(path)
    except Exception as error:  # a torn file fails in the unpickler in many ways
        raise InputError(f"{path} cannot be read as weights ({type(error).__name__}): delete it and load {what} again", field="extractor") from error


def fit_state(module: torch.nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict, every key of it.

    Raises:
        InputError: it belongs to another architecture.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"cached weights are not those of {what} ({str(error).splitlines()[-1].strip()[:120]}): delete them and load again", field="extractor") from error


def hub_model(load: Callable[..., Any], model_id: str, what: str, cache_dir: str | Path | None = None) -> Any:
    """A transformers model or tokenizer: from the local cache without touching the network, else downloaded.

    Args:
        load: a `from_pretrained`.
        model_id: hub id.
        what: its name and size in messages.
        cache_dir: cache; the hub's own unless given.

    Raises:
        InputError: not cached and the hub cannot be reached, or what it gives cannot be loaded.
    """
    try:
        return load(model_id, cache_dir=cache_dir, local_files_only=True)
    except OSError:
        announce(f"{what} is not cached; downloading it from {endpoint()}/{model_id}")
    remedy = f"go online once (`hf download {model_id}`), copy the cache from another machine and set HF_HOME, or choose the extractor efficientnet_lite0, which needs no download"
    try:
        check_reachable(endpoint())
    except (OSError, ValueError) as error:  # a value is an address that is none
        raise InputError(f"{what} is not cached and {endpoint()} cannot be reached ({type(error).__name__}): {remedy}", field="extractor") from error
    try:
        return load(model_id, cache_dir=cache_dir)
    except (OSError, ValueError, RuntimeError) as error:
        reason = shorten(f"{type(error).__name__}: {error}", 200, placeholder=" …")
        raise InputError(f"{what} could not be loaded ({reason}): {remedy}", field="extractor") from error


def endpoint() -> str:
    """Address of the model hub; `HF_ENDPOINT` names a mirror."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def check_reachable(url: str) -> None:
    """Ask once, so that a machine without a network hears so in seconds and not after a minute of retries.

    Raises:
        OSError: no answer. Any answer will do, an error status too.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT):
            return
    except urllib.error.HTTPError:
        return


def hub_weight_hash(model_id: str, cache_dir: str | Path | None = None) -> str:
    """sha256 of a cached model's weight file (the cache names large files by it)."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(model_id, name, cache_dir=cache_dir)
        if isinstance(found, str):
            real = Path(found).resolve()
            return real.name if len(real.name) == 64 else file_sha256(real)
    return "unknown"
