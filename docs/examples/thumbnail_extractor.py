"""An extractor of one's own: the picture itself, 8 x 8 pixels. Start with `--plugin docs/examples/thumbnail_extractor.py --extractor thumbnail`."""

import hashlib

from torch import Tensor

from backend.config.catalogue import EXTRACTORS
from backend.features.base import Extractor, resized

SIDE = 8


class Thumbnail(Extractor):
    """192 numbers: red, green and blue of an 8 x 8 thumbnail."""

    def __init__(self) -> None:
        # No weights: the hash is that of the recipe, so that scores of another one are told apart.
        super().__init__("thumbnail", f"{SIDE} x {SIDE} pixels", 3 * SIDE * SIDE, hashlib.sha256(b"thumbnail 8").hexdigest())

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> [n, 192]; batching, checks and gradients are the base class's."""
        return resized(images, SIDE).flatten(1)


@EXTRACTORS.register("thumbnail", "An 8 x 8 thumbnail: colours and coarse composition.")
def thumbnail(device="cpu") -> Thumbnail:
    """What the table holds is a function from a device to the extractor."""
    return Thumbnail().to(device)
