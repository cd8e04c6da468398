"""Download a large file over HTTP: resumed where it broke off, checked before it gets its name."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from backend.errors import InputError

Progress = Callable[[int, int], None]
_CHUNK = 1 << 18
_AGENT = "CraterLab reference fetch"
_TROUBLE = (urllib.error.URLError, http.client.HTTPException, OSError)


def fetch_json(url: str, timeout: float = 30.0, limit: int = 2**22) -> dict:
    """The JSON object behind an address.

    Raises:
        InputError: no network, an error status, or not a JSON object.
    """
    try:
        with _open(url, {"Accept": "application/json"}, timeout) as response:
            data = json.loads(response.read(limit))
    except _TROUBLE as error:
        raise InputError(f"{url} cannot be reached ({_reason(error)}): check the network, or download the file by other means and name it") from error
    except ValueError as error:
        raise InputError(f"{url} did not answer with JSON ({error}): check the address") from error
    if not isinstance(data, dict):
        raise InputError(f"{url} did not answer with a JSON object: check the address")
    return data


def file_md5(path: Path) -> str:
    """MD5 of a file (the checksum that Zenodo publishes; it guards against damage, not against forgery)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(url: str, target: Path, *, size: int, md5: str, progress: Progress | None = None, attempts: int = 5, wait: float = 2.0, timeout: float = 30.0) -> bool:
    """Download a file to `target`; what has arrived is kept in `<target>.part` and continued by the next call.

    Args:
        url: http or https address; the server's HTTP Range support is used where it has it.
        target: where the whole, checked file will be.
        size: expected bytes.
        md5: expected MD5 in hexadecimal.
        progress: called with bytes here and bytes in all.
        attempts: how often a broken connection is taken up again without any new byte in between.
        wait: seconds before the second attempt; doubled each time.
        timeout: seconds without a byte after which a connection counts as broken.

    Returns:
        True if bytes were fetched, False if the checked file was there already.

    Raises:
        InputError: no network, too little disk space, or another size or checksum than expected.
    """
    if target.is_file() and target.stat().st_size == size and file_md5(target) == md5:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(target, url, md5, size)
    here = part.stat().st_size
    free = shutil.disk_usage(target.parent).free
    if free < size - here:
        raise InputError(f"{url} needs {(size - here) / 2**20:,.0f} MiB more, {str(target.parent)!r} has {free / 2**20:,.0f} MiB free: make room or choose another --cache folder")
    failures = 0
    while (here := part.stat().st_size) < size:
        try:
            _continue(url, part, size, progress, timeout)
            trouble: Exception = http.client.IncompleteRead(b"", size - part.stat().st_size)
        except _TROUBLE as error:
            if isinstance(error, urllib.error.HTTPError) and error.code in {400, 401, 403, 404, 410}:
                raise InputError(f"{url} answers {error.code} {error.reason}: check the address") from error
            trouble = error
        if part.stat().st_size >= size:
            break
        failures = 0 if part.stat().st_size > here else failures + 1
        if failures >= attempts:
            raise InputError(
                f"{url} broke off at {part.stat().st_size:,} of {size:,} bytes ({_reason(trouble)}): check the network and run the command again, it continues there"
            ) from trouble
        time.sleep(wait * 2**failures if failures else 0)
    _accept(part, target, url, size, md5)
    return True


def _part_of(target: Path, url: str, md5: str, size: int) -> Path:
    """The partial file, emptied where it belongs to another download."""
    part, note = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
    identity = {"url": url, "md5": md5, "size": size}
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        known = None
    if known != identity or not part.is_file() or part.stat().st_size > size:
        part.write_bytes(b"")
        note.write_text(json.dumps(identity))
    return part


def _continue(url: str, part: Path, size: int, progress: Progress | None, timeout: float) -> None:
    """Append to the partial file until the connection ends."""
    here = part.stat().st_size
    with _open(url, {"Range": f"bytes={here}-"} if here else {}, timeout) as response:
        continued = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {here}-")
        if here and not continued:
            here = 0  # the server sends the whole file again
        with part.open("r+b") as file:
            file.seek(here)
            file.truncate()
            while here <= size and (data := response.read1(_CHUNK)):
                file.write(data)
                here += len(data)
                if progress:
                    progress(here, size)


def _accept(part: Path, target: Path, url: str, size: int, md5: str) -> None:
    found_size, found = part.stat().st_size, file_md5(part)
    note = target.with_name(f"{target.name}.part.json")
    if found_size != size or found != md5:
        part.unlink()
        note.unlink(missing_ok=True)
        raise InputError(f"{url} gave {found_size:,} bytes with MD5 {found}, expected {size:,} with {md5}: the damaged file was removed, run the command again")
    os.replace(part, target)
    note.unlink(missing_ok=True)


def _open(url: str, headers: dict[str, str], timeout: float) -> http.client.HTTPResponse:
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise InputError(f"address {url!r} is neither http nor https: give one that is")
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers})
    return urllib.request.urlopen(request, timeout=timeout)  # the scheme is checked above


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error or type(error).__name__)
