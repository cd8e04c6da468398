"""Latents' lowest spatial frequencies: an orthonormal basis in which noise can be confined to composition."""

from __future__ import annotations

import math

import torch


def cosine_basis(size: int, count: int) -> torch.Tensor:
    """The first `count` rows of the orthonormal DCT-II of `size` points (Ahmed et al. 1974, IEEE Trans. Computers C-23) [count, size] float32."""
    rows, places = torch.arange(count, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)[None]
    basis = torch.cos(math.pi / size * (places + 0.5) * rows) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()


class LowFrequencies:
    """Projection of latents on their lowest frequencies and back.

    Args:
        height, width: of the latents.
        count: frequencies a side, cut to the latents' own.
    """

    def __init__(self, height: int, width: int, count: int) -> None:
        self.rows, self.columns = cosine_basis(height, min(count, height)), cosine_basis(width, min(count, width))

    @property
    def cells(self) -> int:
        """Coefficients of one channel."""
        return len(self.rows) * len(self.columns)

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """Coefficients [m, C, q, q'] of latents [m, C, H, W]."""
        return self.rows.to(latents) @ latents @ self.columns.to(latents).T

    def lift(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Latents [m, C, H, W] that have these coefficients [m, C, q, q'] and no higher frequency."""
        return self.rows.to(coefficients).T @ coefficients @ self.columns.to(coefficients)
