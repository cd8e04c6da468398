"""The device that a name stands for on this machine."""

from __future__ import annotations

import torch

from backend.errors import InputError

KINDS = ("cpu", "cuda")


def resolve_device(name: str) -> torch.device:
    """The device of a setting or a flag; `auto` is the GPU where there is one, else the CPU.

    Raises:
        InputError: no such name, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is not None and device.type == "mps":
        raise InputError(f"device {name!r} has no double precision, which noise levels are kept in: choose auto or cpu", field="device")
    if device is None or device.type not in KINDS:
        raise InputError(f"device {name!r}: choose auto, {', '.join(KINDS)} or cuda:N", field="device")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; choose auto or cpu", field="device")
    return device
