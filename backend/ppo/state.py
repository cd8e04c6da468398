"""Optimiser state as plain tensors by parameter name, so that it can be kept in safetensors and resumed to the bit."""

from __future__ import annotations

import torch

ADAM = ("exp_avg", "exp_avg_sq", "step")


def adam_tensors(optimiser: torch.optim.Optimizer, named: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Adam's moments and step counts by `name/moment`; parameters never stepped have none."""
    out = {}
    for name, parameter in named.items():
        for key in ADAM:
            if key in optimiser.state.get(parameter, {}):
                out[f"{name}/{key}"] = torch.as_tensor(optimiser.state[parameter][key]).detach().clone().contiguous()
    return out


def load_adam(optimiser: torch.optim.Optimizer, named: dict[str, torch.nn.Parameter], tensors: dict[str, torch.Tensor]) -> None:
    """Take over what `adam_tensors` gave."""
    optimiser.state.clear()
    for name, parameter in named.items():
        if f"{name}/step" in tensors:
            moments = {key: tensors[f"{name}/{key}"].to(parameter).clone() for key in ADAM[:2]}
            optimiser.state[parameter] = moments | {"step": tensors[f"{name}/step"].clone().cpu()}


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names with a prefix."""
    return {f"{prefix}/{name}": t.detach().clone().contiguous() for name, t in tensors.items()}


def unprefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of one prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
