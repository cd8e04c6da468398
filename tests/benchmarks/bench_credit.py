"""What a baseline leaves of the credit's variance, and how much signal an update has, for each policy at its start.

    python -m tests.benchmarks.bench_credit

Groups as in training are drawn twice from the same seeds, once with the policy's noise and once with its mean action (the
twins). Compared are the running mean of each prompt, which sees earlier groups only, and the twin's credit. The signal is the
mean cosine between the policy gradients of two groups: 0 is noise, and 1 / signal is the number of groups whose mean gradient
has as much signal as noise.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

import numpy as np
import torch

from backend.config import TrainConfig
from backend.diffusion.trajectory import Trajectory
from backend.evaluation.generate import weights_digest
from backend.policies.base import Policy
from backend.ppo.advantages import BASELINE_DECAY, RunningMean
from backend.training.seeds import choose_group
from backend.training.session import build_session
from tests.benchmarks.common import arm_results, machine, machine_line, overridden, parse, run_arms

MODES = ("LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY")
GROUPS = 24
MICRO_BATCH = 8


def gradient(policy: Policy, trajectory: Trajectory, credit: torch.Tensor) -> torch.Tensor:
    """Policy gradient of one group [P]: mean over images and steps of credit [B] times the gradient of log pi."""
    parameters = list(policy.trainable().values())
    total = torch.zeros(sum(p.numel() for p in parameters))
    for images in torch.arange(len(trajectory)).split(MICRO_BATCH):
        transitions = trajectory.transitions(images)
        log_prob, _, _ = policy.evaluate(transitions)
        loss = (log_prob * credit[transitions.image].to(log_prob)).sum() / len(trajectory)
        parts = torch.autograd.grad(loss, parameters, allow_unused=True)
        total += torch.cat([torch.zeros(p.numel()) if g is None else g.flatten().float().cpu() for p, g in zip(parameters, parts, strict=True)])
    return total


def signal(gradients: list[torch.Tensor]) -> tuple[float, float]:
    """Mean cosine between different groups' gradients (by their mean square length), and its standard error over pairs."""
    rows = torch.stack(gradients).double()
    products = rows @ rows.T
    pairs = products[torch.triu_indices(len(rows), len(rows), 1).unbind()] / products.diagonal().mean()
    return float(pairs.mean()), float(pairs.std() / len(pairs) ** 0.5)


def measure_mode(mode: str, chosen: Namespace) -> dict[str, Any]:
    """Draw groups and their twins, and compare the baselines. The first group gives the reward its scale and is left out."""
    config = overridden(TrainConfig(mode=mode), chosen.set)
    session = build_session(config)
    agent, prompts, embeds = session.agent, session.train_prompts, session.train_embeds
    index, seeds = choose_group(config, len(prompts), 0)
    reward = session.make_reward(agent.rollout(embeds[index], seeds, base=True).images)
    running: dict[int, RunningMean] = {}
    own, left, gradients = [], {"prompt": [], "twin": []}, {"prompt": [], "twin": []}
    twins_credit = []
    for number in range(1, GROUPS + 2):
        index, seeds = choose_group(config, len(prompts), number)
        words, rows = [prompts[i] for i in index], torch.tensor(index)
        twin = reward.credit(agent.rollout(embeds[index], seeds, number, deterministic=True).images, words, rows)
        trajectory = agent.rollout(embeds[index], seeds, number)
        credit = reward(trajectory.images, words, rows).total
        if number > 1:
            usual = torch.tensor([running.get(i, RunningMean()).mean for i in index])
            own, twins_credit = [*own, credit], [*twins_credit, twin]
            for name, baseline in (("prompt", usual), ("twin", twin)):
                left[name].append(credit - baseline)
                gradients[name].append(gradient(agent.policy, trajectory, credit - baseline))
        for i in sorted(set(index)):
            running.setdefault(i, RunningMean()).add(float(credit[rows == i].mean()), BASELINE_DECAY)
    total = torch.cat(own).square().mean()
    facts = {"mode": mode, "groups": GROUPS, "images": GROUPS * config.group_size, "model_sha256": weights_digest(agent.backbone), "machine": machine(chosen.device)}
    facts["correlation"] = float(np.corrcoef(torch.cat(own), torch.cat(twins_credit))[0, 1])
    return facts | {name: {"left": float(torch.cat(left[name]).square().mean() / total), "signal": signal(gradients[name])} for name in left}


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
    lines += ["Signal: mean cosine between the policy gradients of two groups, in thousandths, ± one standard error; 0 is noise.", ""]
    lines += [
        "| Policy | Images | Correlation with the twin | Left by the prompt's mean | Left by the twin | Signal, prompt's mean | Signal, twin |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in results.values():
        left = [f"{found[name]['left']:.1%}" for name in ("prompt", "twin")]
        signals = [f"{1000 * mean:+.1f} ± {1000 * error:.1f}" for mean, error in (found[name]["signal"] for name in ("prompt", "twin"))]
        lines.append(f"| {found['mode']} | {found['images']} | {found['correlation']:.3f} | {' | '.join(left)} | {' | '.join(signals)} |")
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
