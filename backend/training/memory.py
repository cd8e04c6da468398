"""Memory of this process and of the device, in MiB."""

from __future__ import annotations

import resource
import sys

import psutil
import torch

MIB = 2**20


def memory_row(device: torch.device) -> dict[str, float]:
    """Resident now, highest so far, and what torch holds on the device (zero on a CPU)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
    cuda = device.type == "cuda"
    return {
        "resident_mib": round(psutil.Process().memory_info().rss / MIB, 1),
        "peak_mib": round(peak, 1),
        "device_allocated_mib": round(torch.cuda.memory_allocated(device) / MIB, 1) if cuda else 0.0,
        "device_reserved_mib": round(torch.cuda.memory_reserved(device) / MIB, 1) if cuda else 0.0,
    }


def allocated(row: dict[str, float], device: torch.device) -> float:
    """The one figure of training_log: the device's where there is one, else the process's."""
    return row["device_allocated_mib"] if device.type == "cuda" else row["resident_mib"]
