"""What becomes of deep images and of pixels that were never measured."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from backend.reference.archives import Limits, Refused
from backend.reference.decoding import decode_image


@pytest.mark.parametrize("kind", ["isis", "tag", "integer"])
def test_what_an_instrument_did_not_measure_does_not_decide_the_stretch(kind):
    values = np.tile(np.linspace(1000, 3000, 64, dtype=np.float32), (64, 1))
    hole, info = {"isis": (-3.4028226550889045e38, {}), "tag": (0, {42113: "0"}), "integer": (-32768, {})}[kind]
    values[:8] = hole
    image = Image.fromarray(values if kind == "isis" else values.astype(np.int32))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", tiffinfo=info)
    pixels, notes = decode_image(buffer.getvalue(), Limits())
    assert "stretched from 10" in notes[0] and notes[1].startswith("12.5% without data")
    assert 110 < pixels[0, 0, 0] < 145 and pixels[20, 0, 0] < 5 and pixels[20, -1, 0] > 250


def deep_png(levels: int) -> bytes:
    """A PNG of 16-bit colour, which Pillow cannot write."""
    rows = np.random.default_rng(0).integers(0, levels, (40, 40, 3)).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_colour_of_sixteen_bits_is_told_or_refused():
    assert decode_image(deep_png(65536), Limits())[1] == ["upper 8 bits of each channel taken"]
    with pytest.raises(Refused, match="brightest level 15 of 255"):
        decode_image(deep_png(4096), Limits())
