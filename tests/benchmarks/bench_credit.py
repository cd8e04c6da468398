"""What the twin baseline takes away: variance of the credit before and after, for each policy at its start.

    python -m tests.benchmarks.bench_credit

Groups as in training are drawn twice from the same seeds, once with the policy's noise and once with its mean action (the
twins). The share of the credit's variance that is left says how many times fewer groups give an update of the same accuracy;
the running mean of each prompt, the usual baseline, is measured on the same groups. It sees only earlier groups.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

import numpy as np
import torch

from backend.config import TrainConfig
from backend.evaluation.generate import open_backbone, weights_digest
from backend.evaluation.group_score import reward_for
from backend.policies.base import build_policy
from backend.ppo.advantages import BASELINE_DECAY, RunningMean
from backend.ppo.agent import Agent
from backend.reference.prompts import load_prompts
from backend.training.seeds import choose_group
from tests.benchmarks.common import arm_results, machine, machine_line, overridden, parse, run_arms

MODES = ("LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY")
GROUPS = 24


def measure_mode(mode: str, chosen: Namespace) -> dict[str, Any]:
    """Draw groups and their twins, and compare the baselines."""
    config = overridden(TrainConfig(mode=mode), chosen.set)
    backbone = open_backbone(config, chosen.device)
    agent = Agent(config, backbone, build_policy(config, backbone))
    prompts = load_prompts(config.train_prompts)
    embeds, reward = backbone.encode(prompts), reward_for(config, backbone.device)
    rows = []
    for number in range(1, GROUPS + 1):
        index, seeds = choose_group(config, len(prompts), number)
        words = [prompts[i] for i in index]
        twins = agent.rollout(embeds[index], seeds, number, deterministic=True).images
        images = agent.rollout(embeds[index], seeds, number).images
        of_twins = reward.credit(twins, words, torch.tensor(index))
        rows.append((index, reward(images, words, torch.tensor(index)).total.numpy(), of_twins.numpy()))
    return {"mode": mode, "groups": GROUPS, "images": GROUPS * config.group_size, "model_sha256": weights_digest(backbone), **compare(rows), "machine": machine(chosen.device)}


def compare(rows: list[tuple[list[int], np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Share of the credit's variance that each baseline leaves, and the correlation with the twins.

    Args:
        rows: prompt indices, credit [B] and the twins' credit [B] of each group. The first group gives the reward its scale and is left out.
    """
    running: dict[int, RunningMean] = {}
    prompt_left, twin_left, own, twins = [], [], [], []
    for number, (index, credit, twin) in enumerate(rows):
        if number:
            prompt_left += [value - running.get(p, RunningMean()).mean for p, value in zip(index, credit.tolist(), strict=True)]
            twin_left += (credit - twin).tolist()
            own, twins = own + credit.tolist(), twins + twin.tolist()
        for p in sorted(set(index)):
            running.setdefault(p, RunningMean()).add(float(np.mean([v for q, v in zip(index, credit.tolist(), strict=True) if q == p])), BASELINE_DECAY)
    total = float(np.mean(np.square(own)))
    return {
        "prompt_left": float(np.mean(np.square(prompt_left))) / total,
        "twin_left": float(np.mean(np.square(twin_left))) / total,
        "correlation": float(np.corrcoef(own, twins)[0, 1]),
    }


def table(chosen: Namespace) -> str:
    """Markdown of what is done."""
    results = arm_results(chosen.results / "credit", MODES)
    lines = [
        "# What a baseline leaves of the credit's variance",
        "",
        f"Machine: {machine_line(next(iter(results.values()))['machine'])}.",
        "Command: `python -m tests.benchmarks.bench_credit`.",
        "",
    ]
    lines += [
        "| Policy | Images | Correlation with the twin's credit | Left by the prompt's running mean | Left by the twin | Fewer groups |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in results.values():
        fewer = min(1.0, found["prompt_left"]) / found["twin_left"]
        lines.append(f"| {found['mode']} | {found['images']} | {found['correlation']:.3f} | {found['prompt_left']:.0%} | {found['twin_left']:.1%} | {fewer:.1f} x |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what is missing and write the table."""
    chosen = parse(__doc__.splitlines()[0], MODES, GROUPS)
    if not chosen.table:
        run_arms(chosen.arm or MODES, chosen.results / "credit", lambda mode: measure_mode(mode, chosen))
    (chosen.results / "credit.md").write_text(table(chosen), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
