"""Equal and nearly equal images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import dctn

THUMBNAIL = 32
# Perceptual hashes of one picture after JPEG or resizing differ in a few of 64 bits; unrelated ones in about 32.
MAX_BITS = 10
# Round craters have similar hashes, so a pair counts only if its thumbnails also correlate this much.
MIN_CORRELATION = 0.985


@dataclass(frozen=True)
class NearDuplicate:
    """Image `second` shows nearly what the earlier image `first` shows.

    Attributes:
        first, second: positions in the list that was searched, first < second.
        turned: the likeness is to a turned or mirrored copy.
        correlation: Pearson correlation of the two thumbnails.
    """

    first: int
    second: int
    turned: bool
    correlation: float


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Grey thumbnail float32 `[32, 32]` of an image uint8 `[h, w, 3]`, with mean 0 and norm 1 (zeros if constant)."""
    grey = Image.fromarray(pixels).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float64)
    values = values - values.mean()
    norm = np.linalg.norm(values)
    return (values / norm if norm > 0 else values).astype(np.float32)


def perceptual_hash(thumb: np.ndarray) -> np.uint64:
    """64-bit DCT hash: signs of the 8 x 8 lowest frequencies against their median (Zauner 2010, pHash)."""
    block = dctn(thumb.astype(np.float64), norm="ortho")[:8, :8].ravel()
    bits = block > np.median(block[1:])
    return np.packbits(bits).view(">u8")[0].astype(np.uint64)


def orientations(thumb: np.ndarray) -> list[np.ndarray]:
    """The eight turned and mirrored copies of a square image; the first is the image itself."""
    turned = [np.rot90(thumb, k) for k in range(4)]
    return turned + [np.fliplr(copy) for copy in turned]


def near_duplicates(thumbs: list[np.ndarray], of_kept: bool = False) -> list[NearDuplicate]:
    """For each image the earlier image that it nearly repeats, upright, turned or mirrored.

    Args:
        thumbs: N results of `thumbnail`.
        of_kept: look only among those that repeat nothing themselves, so that leaving out what is found leaves one of every kind: in a series that
            changes slowly each image repeats the one before it, and the last has nothing of the first.

    Returns:
        At most one entry per image, the likest one, in the order of the images.
    """
    if len(thumbs) < 2:
        return []
    hashes = np.array([perceptual_hash(thumb) for thumb in thumbs])
    flat = np.stack([thumb.ravel() for thumb in thumbs])
    found, kept = [], np.ones(len(thumbs), bool)
    for second in range(1, len(thumbs)):
        best = None
        for index, copy in enumerate(orientations(thumbs[second])):
            bits = np.bitwise_count(hashes[:second] ^ perceptual_hash(copy))
            for first in np.flatnonzero((bits <= MAX_BITS) & kept[:second]):
                correlation = float(flat[first] @ np.ascontiguousarray(copy).ravel())
                if correlation >= MIN_CORRELATION and (best is None or correlation > best.correlation):
                    best = NearDuplicate(int(first), second, index > 0, correlation)
        if best is not None:
            found.append(best)
            kept[second] = not of_kept
    return found
