"""How the guards of an evaluation are read: kept, missed, or more than its images can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GUARDS = (("precision", "precision"), ("adherence", "obedience to the prompts"), ("memorisation", "images close to the reference"))


def missed(guards: Mapping[str, Any]) -> list[str]:
    """Names of the guards that are not kept, unsettled ones among them."""
    return [name for name, _ in GUARDS if guards.get(name) is False]


def too_few(guards: Mapping[str, Any]) -> bool:
    """Whether every guard that is not kept is one that the number of images does not settle."""
    return set(missed(guards)) <= set(guards.get("unsettled", ()))


def verdict_of(guards: Mapping[str, Any]) -> str:
    """`yes`, `no`, or `not settled` where too few images were looked at to call it damage."""
    return "yes" if guards["passed"] else "not settled" if too_few(guards) else "no"
