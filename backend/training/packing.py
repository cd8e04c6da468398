"""Nested training state as tensors plus a JSON skeleton: no pickle is ever written or read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

TENSOR, TUPLE, PAIRS, ARRAY, BYTES = "__tensor__", "__tuple__", "__pairs__", "__array__", "__bytes__"


def pack(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Split a state into a JSON-able skeleton and the tensors it points to.

    Args:
        state: dicts, lists and tuples of tensors, numpy arrays, bytes, numbers, text and None; dict keys may be numbers.

    Returns:
        Skeleton and tensors by key, copied to the CPU and contiguous, as safetensors wants them.

    Raises:
        TypeError: something else is in it.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _pack(state, "", tensors), tensors


def _pack(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path or "value"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {TENSOR: path or "value"}
    if isinstance(value, np.ndarray):
        return {ARRAY: _pack(torch.from_numpy(value.copy()), path, tensors)}
    if isinstance(value, bytes):
        return {BYTES: value.hex()}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return {key: _pack(item, f"{path}.{key}".lstrip("."), tensors) for key, item in value.items()}
        return {PAIRS: [[_pack(key, "", tensors), _pack(item, f"{path}.{key}".lstrip("."), tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{path}.{i}".lstrip("."), tensors) for i, item in enumerate(value)]
        return {TUPLE: items} if isinstance(value, tuple) else items
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__} (at {path or 'the top'})")


def unpack(skeleton: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The state that `pack` split.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(skeleton, list):
        return [unpack(item, tensors) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if len(skeleton) == 1:
        key, value = next(iter(skeleton.items()))
        if key == TENSOR:
            return tensors[value]
        if key == ARRAY:
            return unpack(value, tensors).numpy()
        if key == BYTES:
            return bytes.fromhex(value)
        if key == TUPLE:
            return tuple(unpack(item, tensors) for item in value)
        if key == PAIRS:
            return {unpack(k, tensors): unpack(v, tensors) for k, v in value}
    return {key: unpack(value, tensors) for key, value in skeleton.items()}


def snapshot(state: Any) -> Any:
    """A copy of a state that later training cannot reach; tensors stay on their device."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, np.ndarray):
        return state.copy()
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(snapshot(value) for value in state)
    return state
