"""What an untrusted folder or zip holds, one file at a time; nothing is ever written under a name from the source."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from backend.errors import InputError

NESTED = (".zip", ".npz", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_CHUNK = 1 << 20


class Refused(Exception):
    """One file cannot be used; the message is the reason, for the report."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what an import reads.

    Attributes:
        files: most files in a folder or archive.
        file_bytes: most bytes of one file, unpacked.
        total_bytes: most bytes of all files together, unpacked.
        archive_bytes: most bytes of the archive itself.
        ratio: largest compression ratio of one file. Photographs compress 1 to 10 times, blank maps up to about 100.
        pixels: most pixels of one image, read from its header before anything is decoded.
    """

    files: int = 5000
    file_bytes: int = 256 * 2**20
    total_bytes: int = 4 * 2**30
    archive_bytes: int = 4 * 2**30
    ratio: float = 200.0
    pixels: int = 8192 * 8192


@dataclass(frozen=True)
class Member:
    """One regular file of a source.

    Attributes:
        name: its path inside the source with forward slashes; only ever shown, never opened or written.
        read: returns its bytes; raises `Refused` with the reason where that is not safe.
    """

    name: str
    read: Callable[[], bytes]


def is_clutter(name: str) -> bool:
    """Whether a file is one that operating systems leave behind and nobody means to import."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any(part.startswith(".") and part not in {".", ".."} or part == "__MACOSX" for part in parts) or parts[-1:] in {("Thumbs.db",), ("desktop.ini",)}


@contextmanager
def open_source(path: str | Path | Sequence[Path], limits: Limits) -> Iterator[list[Member]]:
    """The files of a folder or zip, or single files, in the order of their names.

    Raises:
        InputError: the source is missing, neither folder nor zip, damaged, or has more files or bytes than `limits`.
    """
    if not isinstance(path, str | Path):
        yield _single_files(path, limits)
        return
    path = Path(path)
    if path.is_dir():
        yield _folder_members(path, limits)
        return
    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist: name a folder, a .zip or an .npz with images")
    check_zip(path, limits)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise InputError(f"{path.name} cannot be read as a zip ({error}): pack it again") from error
    with archive:
        yield _zip_members(archive, path.name, limits)


def check_zip(path: Path, limits: Limits) -> None:
    """Refuse what is no zip, or one whose own size or table of contents is beyond the limits, before parsing it.

    Raises:
        InputError: see above.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise InputError(f"{path.name} is neither a folder nor a .zip or .npz: unpack it, or pack the images as a .zip")
    size = path.stat().st_size
    if size > limits.archive_bytes:
        raise InputError(f"{path.name} has {_mib(size)}, at most {_mib(limits.archive_bytes)} are read: split it")
    with path.open("rb") as file:
        file.seek(max(0, size - 65557))  # the end record has 22 bytes and a comment of at most 65535
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    entries, directory = struct.unpack("<HI", tail[at + 10 : at + 16])
    # A table entry has 46 bytes and a name; 1 KiB each allows for long paths. 0xFFFF(FFFF) refers to the zip64 record.
    if entries != 0xFFFF and entries > limits.files or directory != 0xFFFFFFFF and directory > limits.files * 1024:
        raise InputError(f"{path.name} lists {entries} files, at most {limits.files} are read: split it or remove what is not an image")


def _folder_members(root: Path, limits: Limits) -> list[Member]:
    members, total = [], 0
    for folder, folders, files in os.walk(root, followlinks=False):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in [*files, *links]:
            path = Path(folder) / name
            members.append(Member(path.relative_to(root).as_posix(), partial(_read_file, path, limits)))
            total += 0 if is_clutter(members[-1].name) else _bytes_read(path, limits)
        if len(members) > limits.files:
            raise InputError(f"{str(root)!r} holds more than {limits.files} files: name a smaller folder")
        if total > limits.total_bytes:
            raise InputError(f"{str(root)!r} holds more than {_mib(limits.total_bytes)}: name a smaller folder, or remove what is not an image")
    return sorted(members, key=lambda member: member.name)


def _single_files(paths: Sequence[Path], limits: Limits) -> list[Member]:
    if len(paths) > limits.files or sum(_bytes_read(path, limits) for path in paths) > limits.total_bytes:
        raise InputError(f"{len(paths)} files are too many or too large: at most {limits.files} and {_mib(limits.total_bytes)} are read")
    return sorted((Member(path.name, partial(_read_file, path, limits)) for path in paths), key=lambda member: member.name)


def _bytes_read(path: Path, limits: Limits) -> int:
    """Size of a file that `_read_file` does not refuse."""
    try:
        info = path.lstat()
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) and info.st_size <= limits.file_bytes else 0


def _read_file(path: Path, limits: Limits) -> bytes:
    try:
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            raise Refused("symbolic link: copy the file itself into the folder")
        if not stat.S_ISREG(info.st_mode):
            raise Refused("not a regular file")
        if info.st_size > limits.file_bytes:
            raise Refused(f"{_mib(info.st_size)}, more than {_mib(limits.file_bytes)}")
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})") from error


def _zip_members(archive: zipfile.ZipFile, title: str, limits: Limits) -> list[Member]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > limits.files:
        raise InputError(f"{title} holds {len(entries)} files, at most {limits.files} are read: split it or remove what is not an image")
    total = sum(entry.file_size for entry in entries if _zip_objection(entry, limits) is None)
    if total > limits.total_bytes:
        raise InputError(f"{title} unpacks to {_mib(total)}, at most {_mib(limits.total_bytes)} are read: split it")
    return sorted((Member(entry.filename, partial(_read_entry, archive, entry, limits)) for entry in entries), key=lambda member: member.name)


def _zip_objection(entry: zipfile.ZipInfo, limits: Limits) -> str | None:
    """Why an entry is refused by what the table of contents says of it, or None."""
    name = entry.orig_filename.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":":
        return "absolute name"
    if ".." in PurePosixPath(name).parts:
        return "its name leads out of the archive ('..')"
    mode = entry.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "symbolic link"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        return "not a regular file"
    if entry.flag_bits & 0x1:
        return "encrypted: pack it without a password"
    if name.lower().endswith(NESTED):
        return "an archive inside the archive: unpack it first"
    if entry.file_size > limits.file_bytes:
        return f"{_mib(entry.file_size)} unpacked, more than {_mib(limits.file_bytes)}"
    if entry.file_size > limits.ratio * max(entry.compress_size, 1):
        return f"compressed {entry.file_size / max(entry.compress_size, 1):.0f} times, more than {limits.ratio:.0f}: no picture is"
    return None


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> bytes:
    objection = _zip_objection(entry, limits)
    if objection:
        raise Refused(objection)
    try:
        with archive.open(entry) as file:
            parts, left = [], entry.file_size + 1
            while left > 0 and (part := file.read(min(_CHUNK, left))):
                parts.append(part)
                left -= len(part)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, OSError, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise Refused(f"damaged in the archive ({error})") from error
    data = b"".join(parts)
    if len(data) != entry.file_size:
        raise Refused(f"has another size than the {entry.file_size} bytes the archive states")
    return data


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count:,} bytes"
