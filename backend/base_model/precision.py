"""Mixed precision where a device has it."""

from __future__ import annotations

import torch


def mixed_precision(device: str | torch.device, *, wanted: bool = True) -> torch.autocast:
    """Context in which matrix products and convolutions are done in bfloat16, or nothing changes, on a processor that can not and where it is not `wanted`.

    Without bfloat16 instructions (AVX2 alone) oneDNN refuses the type, and PyTorch's own loops take twenty times as long as float32.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=wanted and (kind != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())))
