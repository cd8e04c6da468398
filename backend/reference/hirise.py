"""Real craters: a diverse selection from JPL's labelled HiRISE landmark set, version 3 (DOI 10.5281/zenodo.2538136)."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.reference.archives import Limits, Member, Refused, open_source
from backend.reference.decoding import decode_image, fit_square
from backend.reference.download import Progress, download, fetch_json, file_md5
from backend.reference.duplicates import near_duplicates, thumbnail
from backend.reference.manifest import new_reference_folder, pixel_sha256, save_png, write_manifest
from backend.reference.selection import maximin, quantise

RECORD_URL = "https://zenodo.org/api/records/2538136"
RECORD_PAGE = "https://zenodo.org/records/2538136"
ARCHIVE = "hirise-map-proj-v3.zip"
LABELS = "labels-map-proj-v3.txt"
CRATER = 1
AUGMENTED = ("-r90", "-r180", "-r270", "-fh", "-fv", "-brt")
CITATION = "Doran, G., Lu, Y., Mandrake, L., & Wagstaff, K. (2019). Mars orbital image (HiRISE) labeled data set version 3. Zenodo. https://doi.org/10.5281/zenodo.2538136"
# The set has 73,031 small JPEGs in 1 GB; nothing else here needs limits this wide.
LIMITS = Limits(files=100_000, file_bytes=16 * 2**20, archive_bytes=4 * 2**30)

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Record:
    """What a Zenodo record says of the archive.

    Attributes:
        url, size, md5: of the archive.
        licence: identifier such as cc-by-4.0; empty where the record names none.
    """

    url: str
    size: int
    md5: str
    licence: str


def read_record(url: str = RECORD_URL, key: str = ARCHIVE) -> Record:
    """Address, size, checksum and licence of the archive, from the record itself.

    No checksum is built into this program: the one that the record publishes at the time is what a download must have.

    Raises:
        InputError: the record cannot be reached or does not list the archive with size and MD5.
    """
    data = fetch_json(url)
    listed = data.get("files") if isinstance(data.get("files"), list) else []
    file = next((item for item in listed if isinstance(item, dict) and item.get("key") == key), None)
    if file is None:
        raise InputError(f"{url} lists no file {key}: check the address of the record")
    kind, _, md5 = str(file.get("checksum", "")).partition(":")
    link = (file.get("links") or {}).get("self")
    if kind != "md5" or len(md5) != 32 or not isinstance(file.get("size"), int) or not isinstance(link, str):
        raise InputError(f"{url} does not state size, MD5 and address of {key}: check the address of the record")
    licence = (data.get("metadata") or {}).get("license") or {}
    return Record(urllib.parse.urljoin(url, link), file["size"], md5.lower(), str(licence.get("id", "")) if isinstance(licence, dict) else str(licence))


def parse_labels(text: str) -> dict[str, int]:
    """Class of each file from the labels file, one `file class` a line.

    Raises:
        InputError: a line of another form.
    """
    labels = {}
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or not parts[1].isdigit():
            raise InputError(f"{LABELS}, line {number}: {line[:80]!r} is not 'file class': is this the HiRISE set, version 3?")
        labels[parts[0]] = int(parts[1])
    return labels


def is_augmented(name: str) -> bool:
    """Whether a file is a turned, mirrored or brightened copy of another."""
    return PurePosixPath(name).stem.endswith(AUGMENTED)


def observation(name: str) -> str:
    """The HiRISE observation that a crop was cut from: ESP_011623_2100_RED of ESP_011623_2100_RED-0069.jpg."""
    return PurePosixPath(name).stem.split("-")[0]


def get_archive(cache: Path, record_url: str = RECORD_URL, progress: Progress | None = None) -> tuple[Path, Record]:
    """Download the archive into a folder, or continue, or find it there complete.

    Raises:
        InputError: see `read_record` and `download`.
    """
    record = read_record(record_url)
    path = cache / ARCHIVE
    download(record.url, path, size=record.size, md5=record.md5, progress=progress)
    return path, record


def local_archive(path: Path, md5: str | None) -> Record:
    """Stand-in for the record where a person has downloaded the archive themselves.

    Args:
        path: the archive.
        md5: the checksum shown on the record's page; None skips the comparison.

    Raises:
        InputError: missing, or another checksum.
    """
    if not path.is_file():
        raise InputError(f"archive {str(path)!r} does not exist: download {ARCHIVE} from {RECORD_PAGE}")
    found = file_md5(path)
    if md5 is not None and found != md5.lower():
        raise InputError(f"archive {str(path)!r} has MD5 {found}, expected {md5}: download it again from {RECORD_PAGE}")
    return Record("", path.stat().st_size, found, "")


@contextmanager
def crater_members(archive: Path):
    """The un-augmented crater crops of the archive, in the order of their names; read while the context is open.

    Yields:
        Members whose class is 1 and whose names are no augmented copy's.

    Raises:
        InputError: no labels file, or none of its craters is there.
    """
    with open_source(archive, LIMITS) as members:
        by_name = {PurePosixPath(member.name).name: member for member in members}
        if LABELS not in by_name:
            raise InputError(f"{archive.name} has no {LABELS}: is it the HiRISE set, version 3?")
        try:
            labels = parse_labels(by_name[LABELS].read().decode("utf-8"))
        except (Refused, UnicodeDecodeError) as error:
            raise InputError(f"{archive.name}: {LABELS} cannot be read ({error}): download the archive again") from error
        craters = sorted(name for name, kind in labels.items() if kind == CRATER and not is_augmented(name) and name in by_name)
        if not craters:
            raise InputError(f"{archive.name} holds none of the craters that {LABELS} names: is it complete?")
        yield [replace(by_name[name], name=name) for name in craters]


def select_craters(archive: Path, embed: Embed, count: int, size: int) -> tuple[list[Member], np.ndarray, int, list[str]]:
    """Choose diverse craters from as many observations as possible.

    Args:
        archive: the zip.
        embed: features float `[N, D]` of images uint8 `[N, size, size, 3]`.
        count: how many to choose.
        size: side in pixels.

    Returns:
        The chosen members, their images uint8 `[count, size, size, 3]`, how many craters there were to choose from,
        and remarks.

    Raises:
        InputError: fewer craters than `count`.
    """
    kept, images, notes = [], [], []
    with crater_members(archive) as members:
        for member in members:
            try:
                pixels, _ = decode_image(member.read(), LIMITS)
            except Refused as reason:
                notes.append(f"left out {member.name}: {reason}")
                continue
            kept.append(member)
            images.append(fit_square(pixels, size))
    repeats = {pair.second: pair.first for pair in near_duplicates([thumbnail(image) for image in images], of_kept=True)}
    notes += [f"left out {kept[later].name}: near duplicate of {kept[earlier].name}" for later, earlier in repeats.items()]
    single = [index for index in range(len(kept)) if index not in repeats]
    if len(single) < count:
        raise InputError(f"{archive.name} has {len(single)} different un-augmented craters, {count} were asked for: lower --count")
    pool = np.stack([images[index] for index in single])
    chosen = maximin(quantise(embed(pool)), count, [observation(kept[index].name) for index in single])
    return [kept[single[index]] for index in chosen], pool[chosen], len(single), notes


def fetch_hirise(
    target: str | Path,
    embed: Embed,
    *,
    cache: str | Path = ".cache/hirise",
    record_url: str = RECORD_URL,
    archive: str | Path | None = None,
    md5: str | None = None,
    count: int = 73,
    size: int = 128,
    overwrite: bool = False,
    progress: Progress | None = None,
    features: str = "",
) -> list[str]:
    """Download the set, choose craters from it and write them as a reference set with licence and citation.

    Args:
        target: folder of the new reference set.
        embed: features of images, see `select_craters`.
        cache: folder that keeps the archive.
        record_url: the record's address in Zenodo's API, or of a mirror with the same answer.
        archive: an archive that is here already; then nothing is downloaded.
        md5: its checksum from the record's page.
        count, size: of the new set.
        overwrite: replace a reference set in `target`.
        progress: called with bytes here and in all.
        features: name of what `embed` computes, for the manifest.

    Returns:
        A report, one finding a line.

    Raises:
        InputError: see the functions above.
    """
    if count < 2:
        raise InputError(f"count {count} is out of bounds: a reference set needs at least 2 images")
    if archive is not None:
        path, record = Path(archive), local_archive(Path(archive), md5)
    else:
        path, record = get_archive(Path(cache), record_url, progress)
    members, images, available, notes = select_craters(path, embed, count, size)
    places = [observation(member.name) for member in members]
    licence = record.licence or f"not read (see {RECORD_PAGE})"
    with new_reference_folder(Path(target), overwrite) as folder:
        entries: list[dict[str, Any]] = []
        for index, (member, image) in enumerate(zip(members, images, strict=True)):
            file = f"images/hirise_{index:02d}.png"
            save_png(image, folder / file)
            entries.append({"file": file, "caption": "aerial view of mars craters", "sha256": pixel_sha256(image), "source": member.name, "observation": places[index]})
        header = {"name": "HiRISE craters", "simulated": False, "source": RECORD_PAGE, "licence": licence, "citation": CITATION, "size": size}
        write_manifest(folder, {**header, "archive_md5": record.md5, "selection": {"from": available, "features": features, "method": "maximin over observations"}}, entries)
    checked = "its checksum is the record's" if record.url or md5 else "its checksum was not compared (give --md5 from the record's page)"
    return [
        f"{len(members)} of {available} un-augmented craters from {len(set(places))} observations written to {target}",
        f"archive: {path} ({record.size:,} bytes, MD5 {record.md5}; {checked})",
        f"licence: {licence}" + ("" if record.licence.lower() == "cc-by-4.0" else f"; read it at {RECORD_PAGE} before you publish anything made from these images"),
        f"cite: {CITATION}",
        *notes,
    ]
