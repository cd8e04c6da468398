"""Principal axes of the reference, and the pool of recent images that estimates of a distribution need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """Onto principal axes.

    Attributes:
        mean: [D]
        axes: [D, d] orthonormal columns, largest variance first.
    """

    mean: Tensor
    axes: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, d]."""
        return (features - self.mean) @ self.axes


def principal_axes(reference: Tensor, dims: int) -> Projection:
    """The reference set's first axes: at most `dims`, and at most M - 1, since M points span no more.

    Args:
        reference: [M, D], M >= 2.
        dims: wanted.
    """
    mean = reference.mean(0)
    rows = torch.linalg.svd(reference - mean, full_matrices=False).Vh
    return Projection(mean, rows[: max(1, min(dims, len(reference) - 1, reference.shape[1]))].T.contiguous())
