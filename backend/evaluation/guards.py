"""How the guards of an evaluation are read: kept, missed, or more than its images can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEPT = {"yes": "guards kept", "no": "guards not kept", "not settled": "guards not settled"}
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


def gap_in_words(summary: Any) -> str:
    """What a `RunSummary` tells of the gap closed, never without what it rests on: `42 % (20 to 122), 64 images, guards not settled`; empty where nothing was judged."""
    if summary.gap_closed is None:
        return ""
    parts = [f"{100 * summary.gap_closed:.0f} %" + (f" ({100 * summary.gap_low:.0f} to {100 * summary.gap_high:.0f})" if None not in (summary.gap_low, summary.gap_high) else "")]
    parts += [f"{summary.images} images"] if summary.images else []
    parts += [KEPT[verdict_of(summary.guards)]] if summary.guards and "passed" in summary.guards else []
    return ", ".join(parts).replace("-", "−")
