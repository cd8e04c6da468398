"""A person's own crops and captions as training pairs: every fault is named before any training begins."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from backend.base_model.data import SIZE
from backend.errors import InputError
from backend.reference.archives import Limits, Member, Refused, is_clutter, open_source
from backend.reference.caption_files import caption_for, is_caption_file, key_for, parse_captions, read_captions
from backend.reference.captions import VOCABULARY, parse_caption
from backend.reference.decoding import EXTENSIONS, decode_image, fit_square
from backend.reference.importing import printable

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MINIMUM = 4  # fewer pictures than this are learned by heart within a few hundred steps
SHOWN = 60  # characters of a caption in a message
NAMED = 5  # names in a message; the rest is counted


@dataclass(frozen=True)
class Pictures:
    """Pictures with captions.

    Attributes:
        images: uint8 [N, SIZE, SIZE, 3].
        captions: N texts.
        names: N names in the source.
        notes: what a person should know before the training, one sentence each.
    """

    images: np.ndarray
    captions: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def aerial(self) -> np.ndarray:
        """bool [N]: pictures whose caption says aerial view, which may be turned; the others are only mirrored."""
        return np.array([parse_caption(text).get("view") == "aerial" for text in self.captions])

    def sha256(self) -> str:
        """Hash of all pixels and captions."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
        digest.update("\n".join(self.captions).encode())
        return digest.hexdigest()


def load_pictures(source: Path, captions: Path | None, limits: Limits | None = None) -> Pictures:
    """Read a folder or zip of crops; each is cropped to its central square and resized to SIZE as `reference import` does.

    Args:
        source: folder or .zip of images; subfolders count.
        captions: JSON Lines or CSV with the columns file_name and text, Hugging Face's `imagefolder` form; None looks for
            metadata.jsonl, metadata.csv, captions.jsonl or captions.csv in the source.
        limits: bounds on what is read.

    Raises:
        InputError: no images or no captions, an image that cannot be used, images and captions that do not belong
            together, or fewer than MINIMUM pictures. The message names the files.
    """
    limits = limits or Limits()
    with open_source(source, limits) as members:
        files = [m for m in members if not is_clutter(m.name)]
        texts = read_captions(captions) if captions else _captions_inside(source, files)
        members = [m for m in files if m.name.lower().endswith(EXTENSIONS)]
        if not members:
            raise InputError(f"{str(source)!r} holds no images: name a folder or .zip with {', '.join(EXTENSIONS)} files")
        if len(members) < MINIMUM:
            raise InputError(f"{str(source)!r} holds {len(members)} images, fine-tuning needs at least {MINIMUM}: add more crops")
        found = _matched(source, members, texts)
        images, enlarged = _decode(source, members, limits)
    notes = [*_word_notes(found)]
    if enlarged:
        notes.append(f"{len(enlarged)} images are below {SIZE} pixels and were enlarged ({_listed(enlarged)}): they are trained blurred")
    return Pictures(images, tuple(found), tuple(m.name for m in members), tuple(notes))


def _captions_inside(source: Path, files: Sequence[Member]) -> dict[str, str]:
    """Captions of the caption files in the source itself."""
    texts: dict[str, str] = {}
    for member in files:
        if is_caption_file(member.name):
            try:
                folder = member.name.rpartition("/")[0]
                texts |= {f"{folder}/{name}".lstrip("/"): text for name, text in parse_captions(member.read(), member.name).items()}
            except Refused as reason:
                raise InputError(f"captions file {printable(member.name)}: {reason}") from reason
    if not texts:
        raise InputError(f"{str(source)!r} holds no captions: put a metadata.jsonl with file_name and text into it, or name a file with --captions")
    return texts


def _matched(source: Path, members: Sequence[Member], texts: dict[str, str]) -> list[str]:
    """The caption of each image; every image has one of its own and every caption an image."""
    found = [caption_for(m.name, texts) for m in members]
    bare = [m.name for m, text in zip(members, found, strict=True) if not text]
    if bare:
        raise InputError(f"{len(bare)} of {len(members)} images have no caption ({_listed(bare)}): add a row for each, or take them out of {str(source)!r}")
    names = [m.name for m in members]
    owners: dict[str | None, list[str]] = {}
    for name in names:
        owners.setdefault(key_for(name, texts), []).append(name)
    for key, sharing in owners.items():
        if len(sharing) > 1:
            raise InputError(f"the caption of {printable(str(key))} would serve {len(sharing)} images ({_listed(sharing)}): give each a row with its path in {str(source)!r}")
    lonely = [key for key in texts if not any(name == key or name.endswith(f"/{key}") for name in names)]
    if lonely:
        raise InputError(f"{len(lonely)} captions belong to no image in {str(source)!r} ({_listed(lonely)}): correct the file_name, or remove the rows")
    return [str(text) for text in found]


def _decode(source: Path, members: Sequence[Member], limits: Limits) -> tuple[np.ndarray, list[str]]:
    """uint8 [N, SIZE, SIZE, 3], and the names of images that had to be enlarged."""
    squares, enlarged, refused = [], [], []
    for member in members:
        try:
            pixels, _ = decode_image(member.read(), limits)
        except Refused as reason:
            refused.append(f"{printable(member.name)}: {reason}")
            continue
        if min(pixels.shape[:2]) < SIZE:
            enlarged.append(member.name)
        squares.append(fit_square(pixels, SIZE))
    if refused:
        more = f"; and {len(refused) - NAMED} more" if len(refused) > NAMED else ""
        raise InputError(f"{len(refused)} of {len(members)} images cannot be used ({'; '.join(refused[:NAMED])}{more}): mend them, or take them out of {str(source)!r}")
    return np.stack(squares), enlarged


def _word_notes(captions: Sequence[str]) -> list[str]:
    """Remarks on words that the model does not know."""
    known = set(VOCABULARY)
    counts = Counter(word for text in captions for word in set(re.findall(r"[^\W\d_]+", text.lower())) - known)
    if not counts:
        return []
    shown = ", ".join(word for word, _ in counts.most_common(4 * NAMED)) + (", …" if len(counts) > 4 * NAMED else "")
    return [
        f"{len(counts)} words are not the model's own and start without a meaning ({shown}): training goes on, and the pictures may give them one; "
        "the words it knows are listed in docs/renderer.md"
    ]


def cut_notes(captions: Sequence[str], tokenizer: CLIPTokenizer) -> list[str]:
    """Remarks on captions that have more tokens than the text encoder reads, start and end included."""
    limit = tokenizer.model_max_length
    tokens = tokenizer(list(captions), truncation=False, verbose=False).input_ids
    cut = [own for own in tokens if len(own) > limit]
    if not cut:
        return []
    read = tokenizer.decode(cut[0][: limit - 1], skip_special_tokens=True).strip()
    said = f"{len(cut)} of {len(tokens)} captions have more than the {limit} tokens that the text encoder reads"
    return [f"{said}: what follows is not learned (the first ends after {('…' * (len(read) > SHOWN) + read[-SHOWN:])!r}); say what matters first, or shorten them"]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
