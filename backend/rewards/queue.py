"""Features of recent images: company for small groups, and the pool of FID and MI."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.errors import InputError


class FeatureQueue:
    """First in, first out; rows of one dimension.

    Args:
        capacity: most rows that are kept.
        dimension: D.
    """

    def __init__(self, capacity: int, dimension: int) -> None:
        self.capacity = capacity
        self.rows = torch.zeros(0, dimension, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.rows)

    def push(self, features: Tensor) -> None:
        """Append rows [N, D]; the oldest fall out."""
        if features.shape[-1] != self.rows.shape[1]:
            raise InputError(f"the queue holds {self.rows.shape[1]} numbers per image, these features have {features.shape[-1]}")
        self.rows = torch.cat([self.rows, features.detach().double().cpu()])[-self.capacity :]

    def recent(self, count: int) -> Tensor:
        """The newest `count` rows (fewer where there are fewer), oldest first."""
        return self.rows[max(len(self.rows) - count, 0) :] if count > 0 else self.rows[:0]

    def state_dict(self) -> dict[str, Tensor]:
        """Its rows, float64, so that a resumed run scores bit for bit alike."""
        return {"rows": self.rows.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved rows.

        Raises:
            InputError: they have another dimension.
        """
        rows = state["rows"].double()
        if rows.shape[1] != self.rows.shape[1]:
            raise InputError(f"the saved queue holds {rows.shape[1]} numbers per image, this extractor gives {self.rows.shape[1]}: resume with the same extractor")
        self.rows = rows[-self.capacity :].clone()
