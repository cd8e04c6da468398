"""Guidance times spacing: what constants alone can reach. It is the ceiling of SCHEDULER_POLICY and the trivial baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backend.config import TrainConfig
from backend.diffusion.backbone import Backbone
from backend.diffusion.sampler import ShouldStop
from backend.errors import InputError
from backend.evaluation.generate import Progress, base_images
from backend.evaluation.protocol import Protocol

GUIDANCES = (1.0, 2.0, 3.0, 4.5, 6.0, 7.5, 10.0, 13.0, 17.0)
WARPS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)


def paired_gain(scores: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Mean of paired differences and its standard error: [U], [U] -> `gain`, `standard_error`, `z`.

    Raises:
        ValueError: fewer than two pairs.
    """
    if len(scores) != len(base) or len(base) < 2:
        raise ValueError(f"{len(scores)} scores against {len(base)}: give at least two pairs")
    difference = scores - base
    error = float(difference.std(ddof=1) / math.sqrt(len(difference)))
    gain = float(difference.mean())
    return {"gain": gain, "standard_error": error, "z": gain / error if error > 0 else 0.0}


def grid_search(
    config: TrainConfig,
    protocol: Protocol,
    backbone: Backbone,
    digest: str,
    score: Callable[[np.ndarray], np.ndarray],
    guidances: Sequence[float] = GUIDANCES,
    warps: Sequence[float] = WARPS,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
) -> dict[str, Any]:
    """Score every combination of constant guidance and warp at the protocol's prompts and seeds.

    Args:
        config: names nothing but the base here.
        protocol: prompts, seeds, and the base's own guidance.
        backbone: the base, without adapters; digest: its `weights_digest`.
        score: images uint8 [N, h, w, 3] -> scores [U], higher is better, paired over calls.
        guidances, warps: the grid; see `ConstantPolicy` for warps.
        progress, should_stop: callbacks; every drawn set is cached, so a stopped search goes on where it was.

    Returns:
        `base` (mean score at the protocol's guidance and warp 1), `cells` (guidance, warp, score, gain, standard_error, z)
        and `best`, the cell with the largest gain, which is the base itself where nothing beats it.

    Raises:
        InputError: an empty grid.
    """
    if not guidances or not warps:
        raise InputError("an empty grid has no best cell: give at least one guidance and one warp")
    base = score(base_images(config, protocol, backbone, digest, should_stop=should_stop))
    cells: list[dict[str, Any]] = []
    pairs = [(guidance, warp) for guidance in guidances for warp in warps]
    for done, (guidance, warp) in enumerate(pairs):
        if progress is not None:
            progress(f"guidance {guidance:g}, warp {warp:g}", done / len(pairs))
        images = base_images(config, replace(protocol, guidance=float(guidance)), backbone, digest, warp, should_stop=should_stop)
        scores = score(images)
        cells.append({"guidance": float(guidance), "warp": float(warp), "score": float(scores.mean()), **paired_gain(scores, base)})
    untouched = {"guidance": protocol.guidance, "warp": 1.0, "score": float(base.mean()), "gain": 0.0, "standard_error": 0.0, "z": 0.0}
    return {"base": float(base.mean()), "cells": cells, "best": max([untouched, *cells], key=lambda cell: cell["gain"])}


def markdown_grid(result: dict[str, Any]) -> str:
    """The grid's gains as a Markdown table, guidance down, warp across; two standard errors in brackets."""
    warps = sorted({cell["warp"] for cell in result["cells"]})
    lines = ["| Guidance | " + " | ".join(f"warp {warp:g}" for warp in warps) + " |", "| ---: |" + " ---: |" * len(warps)]
    for guidance in sorted({cell["guidance"] for cell in result["cells"]}):
        row = {cell["warp"]: cell for cell in result["cells"] if cell["guidance"] == guidance}
        lines.append(f"| {guidance:g} | " + " | ".join(f"{row[w]['gain']:+.4f} (±{2 * row[w]['standard_error']:.4f})" for w in warps) + " |")
    return "\n".join(lines)


def ceiling_sentence(result: dict[str, Any], gains: Sequence[float]) -> str:
    """What the grid says of a policy that chooses schedule and guidance.

    Args:
        result: of `grid_search`.
        gains: the policy's gain over the base for each training seed, in the same score.
    """
    best = result["best"]
    if best["z"] <= 2:
        return "No constant guidance and spacing beats the base by more than two standard errors: the base is the ceiling of constants."
    text = f"The best constant is guidance {best['guidance']:g} with warp {best['warp']:g}: {best['gain']:+.4f} (± {best['standard_error']:.4f})."
    return text + (f" SCHEDULER_POLICY reaches {np.mean(gains) / best['gain']:.0%} of that gain." if len(gains) else "")
