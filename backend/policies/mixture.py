"""Mixtures of checkpoints: averages of saved policies (model soups, Wortsman et al. 2022, arXiv 2203.05482)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from backend.errors import InputError
from backend.policies.lora import WEIGHTS_FILE

POLICY_FILE = "policy.safetensors"


def mix_checkpoints(folders: Sequence[str | Path], target: str | Path, weights: Sequence[float] | None = None) -> Path:
    """Write the weighted average of saved policies to `target`, in the same format.

    Adapters are averaged as what they add to the layers, sum_i w_i B_i A_i, cut back to their rank by the best approximation
    (averaging A and B apart would give cross terms of unrelated bases). Other policies are averaged parameter by parameter.

    Args:
        folders: what `Agent.save_policy` wrote, one mode and shape.
        target: folder to write.
        weights: one per folder, none negative; normalised to sum 1. Default equal.

    Raises:
        InputError: no folders, weights that do not fit, files missing, policies of different shapes, or adapters of different alpha.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    shares = _shares(len(folders), weights)
    name = next((n for n in (WEIGHTS_FILE, POLICY_FILE) if (Path(folders[0]) / n).is_file()), None)
    if name is None:
        raise InputError(f"{folders[0]} holds no saved policy ({WEIGHTS_FILE} or {POLICY_FILE}): choose checkpoint folders")
    missing = [str(f) for f in folders if not (Path(f) / name).is_file()]
    if missing:
        raise InputError(f"{missing[0]} has no {name}: mix checkpoints of one mode")
    parts = [load_file(Path(f) / name) for f in folders]
    if any({k: t.shape for k, t in p.items()} != {k: t.shape for k, t in parts[0].items()} for p in parts):
        raise InputError("the checkpoints have different layers or ranks: mix policies of one configuration")
    if len(alphas := {_alpha(Path(f) / name) for f in folders}) > 1:
        raise InputError(f"the adapters have lora_alpha {' and '.join(map(str, sorted(alphas, key=str)))}, so their sum has no common scale: mix checkpoints of one lora_alpha")
    mixed = mix_adapters(parts, shares) if name == WEIGHTS_FILE else {k: sum(w * p[k] for w, p in zip(shares, parts, strict=True)) for k in parts[0]}
    path = Path(target) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with safe_open(Path(folders[0]) / name, "pt") as first:
        save_file({k: t.contiguous() for k, t in mixed.items()}, path, metadata=first.metadata())
    return path


def _alpha(path: Path) -> float | None:
    """The adapters' lora_alpha as `LoRAPolicy.save` noted it in the file; None where nothing is noted."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        noted = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    return noted.get("unet.lora_alpha")


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
    if not count:
        raise InputError("no checkpoints to mix: name at least one folder")
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count or not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise InputError(f"weights {weights}: give {count} numbers, none negative, not all zero")
    return [w / sum(weights) for w in weights]


def mix_adapters(parts: list[dict[str, torch.Tensor]], shares: list[float]) -> dict[str, torch.Tensor]:
    """Adapters of the averaged update, at the same rank; convolutions keep their kernel in A.

    Args:
        parts: `...lora_A.weight` [r, in, ...] and `...lora_B.weight` [out, r, ...] by name.
        shares: one per part, sum 1.
    """
    mixed = {}
    for name_a in (k for k in parts[0] if k.endswith("lora_A.weight")):
        name_b = name_a.replace("lora_A", "lora_B")
        shape_a, shape_b = parts[0][name_a].shape, parts[0][name_b].shape
        a = torch.cat([p[name_a].flatten(1).double() for p in parts])
        b = torch.cat([w * p[name_b].flatten(1).double() for w, p in zip(shares, parts, strict=True)], dim=1)
        new_a, new_b = best_factors(b, a, shape_a[0])
        mixed[name_a], mixed[name_b] = new_a.reshape(shape_a).float(), new_b.reshape(shape_b).float()
    return mixed


def best_factors(b: torch.Tensor, a: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A' [rank, in] and B' [out, rank] with B' A' closest to b a in the Frobenius norm (Eckart & Young 1936), by a small SVD."""
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    keep = min(rank, len(s))
    root = s[:keep].sqrt()
    new_b, new_a = q_b @ u[:, :keep] * root, root[:, None] * (v[:keep] @ q_a.T)
    pad = rank - keep
    return torch.nn.functional.pad(new_a, (0, 0, 0, pad)), torch.nn.functional.pad(new_b, (0, pad))
