"""bfloat16 only where a processor has it: emulated, a step of the finish took 27 seconds."""

from __future__ import annotations

import pytest
import torch

from backend.base_model.precision import mixed_precision


@pytest.mark.parametrize(("has_it", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_products_on_a_processor_are_in_bfloat16_only_where_it_has_the_instructions(has_it: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_it)
    with mixed_precision("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
