"""Sixty episodes of each policy from the command line: does the raw group score rise over the untouched base?

    python -m tests.benchmarks.bench_modes                      # all arms; those done are skipped
    python -m tests.benchmarks.bench_modes --arm LORA_UNET:0    # one arm

Base and tuned model draw the same prompts and seeds, none of which was trained on; the score is the raw score of the default
reward in groups of 16, and the differences are paired. SCHEDULER_POLICY has few degrees of freedom, so the grid search over
constant guidance and spacing says how much there is to gain at all.
"""

from __future__ import annotations

import math
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from backend.config import TrainConfig
from backend.errors import InputError
from backend.evaluation.generate import base_images, open_backbone, pick_device, weights_digest
from backend.evaluation.grid_search import ceiling_sentence, grid_search, markdown_grid, paired_gain
from backend.evaluation.group_score import GROUP, group_scores, reward_for
from backend.evaluation.protocol import protocol_for
from tests.benchmarks.common import arm_results, freeze, frozen_facts, machine, machine_line, overridden, parse, run_arms, train_arm, tuned_images, write

MODES = ("LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY")
SEEDS = (0, 1, 2)
EPISODES = 60
IMAGES = 256
GRID_IMAGES = 128
ARMS = [*[f"{mode}:{seed}" for mode in MODES for seed in SEEDS], "grid"]


def arm_config(arm: str, settings: list[str]) -> TrainConfig:
    """The defaults of a mode; nothing is measured while training that the score below measures again."""
    mode, _, seed = arm.partition(":")
    return overridden(TrainConfig(mode=mode, seed=int(seed), episodes=EPISODES, eval_images=0, probe_every=0, sample_every=20), settings)


def score_arm(arm: str, chosen: Namespace) -> dict[str, Any]:
    """Train one arm and compare it with the base."""
    config = arm_config(arm, chosen.set)
    protocol, folder = protocol_for(config, chosen.images), chosen.results / "modes"
    backbone = open_backbone(config, chosen.device)
    model = weights_digest(backbone)
    freeze(folder, frozen_facts(config, protocol, model))
    run, command, trained = train_arm(config, chosen.runs / "modes" / arm.replace(":", "_"))
    reward = reward_for(config, pick_device(chosen.device))
    base = group_scores(reward, base_images(config, protocol, backbone, model), protocol.captions)
    tuned = group_scores(reward, tuned_images(config, run, protocol, model, chosen.device), protocol.captions)
    return {
        "mode": config.mode, "seed": config.seed, "episodes": config.episodes, "images": protocol.images, "groups": len(base), "command": command,
        "base": float(base.mean()), "tuned": float(tuned.mean()), **paired_gain(tuned, base), "base_groups": base.tolist(), "tuned_groups": tuned.tolist(),
        "training_seconds": round(trained, 1), "machine": machine(chosen.device),
    }  # fmt: skip


def score_grid(chosen: Namespace) -> dict[str, Any]:
    """What constants alone reach."""
    config = arm_config("SCHEDULER_POLICY:0", chosen.set)
    protocol = protocol_for(config, min(GRID_IMAGES, chosen.images))
    backbone = open_backbone(config, chosen.device)
    reward = reward_for(config, pick_device(chosen.device))
    found = grid_search(
        config,
        protocol,
        backbone,
        weights_digest(backbone),
        lambda images: group_scores(reward, images, protocol.captions),
        progress=lambda what, share: print(f"  {share:4.0%} {what}", flush=True),
    )
    return {**found, "images": protocol.images, "machine": machine(chosen.device)}


def pooled(arms: list[dict[str, Any]]) -> dict[str, float]:
    """Mean gain over training seeds and its standard error.

    The evaluation groups are the same for every seed, so their error does not average out over seeds; the variance
    between seeds is added to it.
    """
    differences = np.array([np.subtract(arm["tuned_groups"], arm["base_groups"]) for arm in arms])
    gain = float(differences.mean())
    shared = differences.mean(axis=0)
    variance = shared.var(ddof=1) / len(shared)
    if len(arms) > 1:
        variance += differences.mean(axis=1).var(ddof=1) / len(arms)
    error = math.sqrt(variance)
    return {"gain": gain, "standard_error": error, "z": gain / error if error > 0 else 0.0}


def table(folder: Path) -> str:
    """Markdown table of the arms that are done."""
    results = arm_results(folder / "modes", ARMS)
    grid = results.pop("grid", None)
    if not results and grid is None:
        raise InputError("no arm is done yet: run the benchmark without --table first")
    any_arm = next(iter(results.values()), grid)
    lines = ["# Sixty episodes of each policy", "", f"Machine: {machine_line(any_arm['machine'])}.", "Command: `python -m tests.benchmarks.bench_modes`.", ""]
    # The arm's own command names its reward: the default may be another by now.
    metric = re.search(r"--metric (\S+)", any_arm["command"])[1] if "command" in any_arm else TrainConfig().metric
    lines += [f"Raw group score ({metric}, groups of {GROUP}) on fixed test prompts and seeds, base and tuned paired; ± is one standard error.", ""]
    lines += ["| Policy | Training seed | Images | Base | Tuned | Gain | Gain / standard error | Training |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for arm in results.values():
        gain = f"{arm['gain']:+.4f} ± {arm['standard_error']:.4f}"
        lines.append(
            f"| {arm['mode']} | {arm['seed']} | {arm['images']} | {arm['base']:.4f} | {arm['tuned']:.4f} | {gain} | {arm['z']:.1f} | {arm['training_seconds'] / 60:.1f} min |"
        )
    summary = {}
    for mode in MODES:
        arms = [arm for arm in results.values() if arm["mode"] == mode]
        if arms:
            summary[mode] = pooled(arms) | {"seeds": len(arms)}
            found = summary[mode]
            lines.append(f"| **{mode}** | all {len(arms)} | | | | **{found['gain']:+.4f} ± {found['standard_error']:.4f}** | **{found['z']:.1f}** | |")
    if grid is not None:
        gains = [arm["gain"] for arm in results.values() if arm["mode"] == "SCHEDULER_POLICY"]
        lines += ["", f"Gain of constant guidance and spacing over the base ({grid['images']} images, ± two standard errors):", ""]
        lines += [markdown_grid(grid), "", ceiling_sentence(grid, gains)]
    write(folder / "modes" / "summary.json", {"modes": summary, "best_constant": grid and grid["best"]})
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the arms that were asked for and write the table."""
    chosen = parse(__doc__, ARMS, IMAGES)
    try:
        if not chosen.table:
            run_arms(chosen.arm or ARMS, chosen.results / "modes", lambda arm: score_grid(chosen) if arm == "grid" else score_arm(arm, chosen))
        text = table(chosen.results)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (chosen.results / "modes.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
