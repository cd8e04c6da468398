"""What a baseline leaves of the credit's variance, and how much signal sampled and pathwise gradients have, for each policy at its start.

    python -m tests.benchmarks.bench_credit

Groups as in training are drawn twice from the same seeds, once with the policy's noise and once with its mean action (the
twins). Compared are the running mean of each prompt, which sees earlier groups only, and the twin's credit. The signal is the
mean cosine between the policy gradients of two groups, from sampled credit with either baseline and by the pathwise estimate:
0 is noise, and 1 / signal is the number of groups whose mean gradient
has as much signal as noise. `SCHEDULER_POLICY` has the pathwise one twice, with the difference quotient by time that training takes and with one so
narrow that it is the derivative itself.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from backend.config import TrainConfig
from backend.diffusion import pathwise
from backend.diffusion.trajectory import Trajectory
from backend.evaluation.generate import weights_digest
from backend.policies.base import Policy
from backend.ppo.advantages import BASELINE_DECAY, RunningMean
from backend.ppo.objective import pathwise_gain
from backend.rewards.composition import RewardFunction
from backend.training.seeds import choose_group
from backend.training.session import Session, build_session
from tests.benchmarks.common import arm_results, machine, machine_line, overridden, parse, run_arms

MODES = ("LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY")
GROUPS = 16
NARROW = 0.05  # timesteps: a derivative, as far as float32 goes
ESTIMATES = ("prompt", "twin", "pathwise", "narrow")
MICRO_BATCH = 8


def gradients(policy: Policy, trajectory: Trajectory, credits: list[torch.Tensor], pulls: list[torch.Tensor]) -> list[torch.Tensor]:
    """Policy gradients of one group [P] each: mean over images and steps of credit [B] times the gradient of log pi, for each credit; then the pathwise ones."""
    parameters = list(policy.trainable().values())
    totals = [torch.zeros(sum(p.numel() for p in parameters)) for _ in range(len(credits) + len(pulls))]
    for images in torch.arange(len(trajectory)).split(MICRO_BATCH):
        transitions = trajectory.transitions(images)
        log_prob, _, distribution = policy.evaluate(transitions)
        losses = [(log_prob * credit[transitions.image].to(log_prob)).sum() for credit in credits]
        for pull in pulls:
            transitions.pull = pull.unflatten(0, (len(trajectory), -1))[images].flatten(0, 1)
            losses.append(pathwise_gain(distribution, transitions).sum())
        for total, loss in zip(totals, losses, strict=True):
            parts = torch.autograd.grad(loss / len(trajectory), parameters, retain_graph=True, allow_unused=True)
            total += torch.cat([torch.zeros(p.numel()) if g is None else g.flatten().float().cpu() for p, g in zip(parameters, parts, strict=True)])
    return totals


def signal(gradients: list[torch.Tensor]) -> tuple[float, float]:
    """Mean cosine between different groups' gradients (by their mean square length), and its standard error over pairs."""
    rows = torch.stack(gradients).double()
    products = rows @ rows.T
    pairs = products[torch.triu_indices(len(rows), len(rows), 1).unbind()] / products.diagonal().mean()
    return float(pairs.mean()), float(pairs.std() / len(pairs) ** 0.5)


@dataclass
class Drawn:
    """One group and its twin.

    Attributes:
        index: [B] prompts.
        trajectory: of the group.
        credit, twin: [B] of the images, and of those that the mean action draws from the same seeds.
        pulls: pathwise estimates, one for each reach of the difference quotient.
    """

    index: list[int]
    trajectory: Trajectory
    credit: torch.Tensor
    twin: torch.Tensor
    pulls: list[torch.Tensor]


def draw_group(session: Session, reward: RewardFunction, number: int, reaches: Sequence[float]) -> Drawn:
    """Draw group `number` and score it; the reward remembers it."""
    agent, embeds = session.agent, session.train_embeds
    index, seeds = choose_group(agent.config, len(session.train_prompts), number)
    words, rows = [session.train_prompts[i] for i in index], torch.tensor(index)
    twin = reward.credit(agent.rollout(embeds[index], seeds, number, deterministic=True).images, words, rows)
    trajectory, pulls = agent.rollout(embeds[index], seeds, number), []
    slope = reward.image_gradient(trajectory.images, words, rows) if reaches else None
    for reach in reaches:
        with patch.object(pathwise, "TIME_REACH", reach):
            pulls.append(agent.pulls(trajectory, slope, 1.0, MICRO_BATCH)[0])
    return Drawn(index, trajectory, reward(trajectory.images, words, rows).total, twin, pulls)


def usual_credit(groups: Sequence[Drawn]) -> list[torch.Tensor]:
    """What the running mean of each prompt would have said of each group [B], from the groups before it."""
    running: dict[int, RunningMean] = {}
    said = []
    for group in groups:
        said.append(torch.tensor([running.get(i, RunningMean()).mean for i in group.index]))
        for i in sorted(set(group.index)):
            running.setdefault(i, RunningMean()).add(float(group.credit[torch.tensor(group.index) == i].mean()), BASELINE_DECAY)
    return said


def mean_pulls(pulls: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """What each number of a plan is pulled by, over groups."""
    rows = torch.stack([pull.flatten(1).mean(0) for pull in pulls]).double()
    return {"mean": rows.mean(0).tolist(), "standard_error": (rows.std(0) / len(rows) ** 0.5).tolist()}


def measure_mode(mode: str, chosen: Namespace) -> dict[str, Any]:
    """Draw groups and their twins, and compare the baselines. The first group gives the reward its scale and is left out."""
    config = overridden(TrainConfig(mode=mode), chosen.set)
    session = build_session(config)
    planned = mode == "SCHEDULER_POLICY"
    index, seeds = choose_group(config, len(session.train_prompts), 0)
    reward = session.make_reward(session.agent.rollout(session.train_embeds[index], seeds, base=True).images)
    reaches = ([pathwise.TIME_REACH] + [NARROW] * planned) * bool(config.pathwise_share)
    first = draw_group(session, reward, 1, ())
    groups = [draw_group(session, reward, number, reaches) for number in range(2, GROUPS + 2)]
    credits, twins = torch.cat([g.credit for g in groups]), torch.cat([g.twin for g in groups])
    usual = usual_credit([first, *groups])[1:]
    left = {"prompt": credits - torch.cat(usual), "twin": credits - twins}
    facts = {"mode": mode, "groups": GROUPS, "images": GROUPS * config.group_size, "model_sha256": weights_digest(session.agent.backbone), "machine": machine(chosen.device)}
    facts["correlation"] = float(np.corrcoef(credits, twins)[0, 1])
    facts |= {name: {"left": float(rest.square().mean() / credits.square().mean())} for name, rest in left.items()}
    rows = [gradients(session.agent.policy, g.trajectory, [g.credit - mean, g.credit - g.twin], g.pulls) for g, mean in zip(groups, usual, strict=True)]
    for name, found in zip(ESTIMATES, zip(*rows, strict=True), strict=False):  # without a derivative there are two estimates only
        facts.setdefault(name, {})["signal"] = signal(list(found))
    if planned:
        for name, pulls in zip(ESTIMATES[2:], zip(*(g.pulls for g in groups), strict=True), strict=False):
            facts[name]["pulls"] = mean_pulls(pulls)
    return facts


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
        "| Policy | Images | Correlation with the twin | Left by the prompt's mean | Left by the twin | Signal, prompt's mean | twin | pathwise | by the derivative in time |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in results.values():
        left = [f"{found[name]['left']:.1%}" for name in ("prompt", "twin")]
        signals = ["{:+.1f} ± {:.1f}".format(*(1000 * x for x in found[name]["signal"])) if name in found else "–" for name in ESTIMATES]
        lines.append(f"| {found['mode']} | {found['images']} | {found['correlation']:.3f} | {' | '.join(left)} | {' | '.join(signals)} |")
    plan = results.get("SCHEDULER_POLICY", {})
    if "narrow" in plan:
        shapes = len(plan["narrow"]["pulls"]["mean"]) - 1
        lines += ["", "What pulls the plan of `SCHEDULER_POLICY` at its start, mean over groups ± one standard error: each cosine of the spacing, and the guidance.", ""]
        lines += ["| By time | " + " | ".join(f"cosine {k + 1}" for k in range(shapes)) + " | guidance |", "| --- |" + " ---: |" * (shapes + 1)]
        for name, said in (("pathwise", f"difference quotient, {pathwise.TIME_REACH:g} timesteps to either side"), ("narrow", f"derivative ({NARROW:g} timesteps)")):
            pulls = plan[name]["pulls"]
            lines.append(f"| {said} | " + " | ".join(f"{m:+.2f} ± {e:.2f}" for m, e in zip(pulls["mean"], pulls["standard_error"], strict=True)) + " |")
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
