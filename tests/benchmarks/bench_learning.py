"""Does learning go on, and do judges that the reward never saw agree? Policies at the defaults, ceilings, ablations.

    python -m tests.benchmarks.bench_learning                       # everything; arms that are done are skipped
    python -m tests.benchmarks.bench_learning --arm LORA_UNET:0     # one arm
    python -m tests.benchmarks.bench_learning --table               # the tables from what is done

Policies train 200 episodes on 3 seeds (SCHEDULER_POLICY, which has few degrees of freedom, 100); base and tuned model then
draw 1,024 images each of the test prompts at the same seeds, for DIVERSITY_POLICY 4,096: what it may cost in precision is less
than 1,024 images can tell. `grid` scores constant guidance and spacing (the ceiling of SCHEDULER_POLICY), `constant` the
best of them on the images that policies are scored by; `trivial` lets the judges choose the
best constant guidance under the same guards; `attainable` is what a perfect denoiser would close, for the autoencoder
loses the rest. The policies are kept beside their results. Ablations train LORA_UNET 60 episodes on 2 seeds and are all scored by the
default reward, whatever they were trained on.
"""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from backend.analysis.convergence import trend
from backend.analysis.series import columns
from backend.config import TrainConfig, make_config
from backend.diffusion.backbone import Backbone
from backend.errors import InputError
from backend.evaluation.evaluate import Stage, attainable, judge, set_stage, trivial_baseline
from backend.evaluation.generate import base_images, open_backbone, weights_digest
from backend.evaluation.grid_search import grid_search, paired_gain
from backend.evaluation.group_score import group_scores, reward_for
from backend.evaluation.judges import Measured
from backend.evaluation.protocol import Protocol, protocol_for
from backend.features.device import resolve_device
from backend.policies.mixture import mix_checkpoints
from backend.runs import Run
from backend.training.record import git_revision
from tests.benchmarks.common import freeze, frozen_facts, machine, newest_policy, overridden, parse, policy_digest, read, run_arms, train_arm, tuned_images
from tests.benchmarks.learning_tables import MODES, late_slope, write_tables

SEEDS, ABLATION_SEEDS = (0, 1, 2), (0, 1)
EPISODES = MappingProxyType({"LORA_UNET": 200, "DIVERSITY_POLICY": 200, "SCHEDULER_POLICY": 100})
ABLATION_EPISODES = 60
IMAGES, SCORED, ABLATION_IMAGES, GRID_IMAGES = 1024, 256, 256, 128
TIMES_IMAGES = MappingProxyType({"DIVERSITY_POLICY": 4})
TRIVIAL = (3.0, 6.0, 9.0, 10.5, 12.0, 15.0)  # below 7.5 the embedded model blurs, and judges find less variety: both sides are searched
ABLATIONS = MappingProxyType(
    {
        "default": {},
        "alone": {"company": 0},
        "mixed": {"pathwise": 0.95},
        "sampled-credit": {"pathwise": 0.0},
        "prompt-baseline": {"pathwise": 0.0, "baseline": "prompt"},
        "broadcast": {"advantage": "broadcast"},
        "centred": {"advantage": "centred"},
        "normalised-broadcast": {"advantage": "centred", "reward_mode": "batch"},
        "gae": {"advantage": "gae"},
        "batch-reward": {"reward_mode": "batch"},
        "window-early": {"window_start": 0},
        "window-late": {"window_start": 4},
        "window-all": {"window_start": 0, "window_size": 8},
        "no-kl": {"kl_base_coef": 0.0},
        "vendi": {"metric": "VENDI"},
        "mmd": {"metric": "MMD"},
        "adherence": {"adherence_weight": 0.5},
        "ensemble": {"ensemble": "MMD=1, COVERAGE=0.5, ADHERENCE=0.5"},
        "trpo": {"algorithm": "TRPO"},
        "curriculum": {"curriculum": "diversity_weight"},
        "replay": {"replay_groups": 2},
        "four-epochs": {"ppo_epochs": 4},
        "usual-epsilon": {"adam_eps": 1e-8},
        "constant-rate": {"lr_scheduler": "constant"},
        "attention-only": {"lora_targets": "attention"},
        "groups-of-4": {"prompts_per_group": 2},
    }
)
MAIN = tuple(f"{mode}:{seed}" for mode in MODES for seed in SEEDS)
ABLATED = tuple(f"{name}:{seed}" for name in ABLATIONS for seed in ABLATION_SEEDS)
ARMS = (*MAIN, "grid", "constant", "trivial", "attainable", *ABLATED, "mixture")


def arm_config(arm: str, settings: list[str]) -> TrainConfig:
    """The settings of an arm."""
    name, _, seed = arm.partition(":")
    quiet = {"eval_images": 0, "sample_every": 20}
    if name in MODES:
        return overridden(TrainConfig(mode=name, seed=int(seed), episodes=EPISODES[name], **quiet), settings)
    changes = ABLATIONS.get(name, {})
    return overridden(TrainConfig(seed=int(seed or 0), episodes=ABLATION_EPISODES, probe_every=0, **quiet, **changes), settings)


def scored_by(config: TrainConfig, settings: list[str]) -> TrainConfig:
    """The default reward on the arm's model and reference, so that all arms stand on one scale."""
    return overridden(TrainConfig(), [s for s in settings if s.split("=")[0] in ("base_model", "reference", "test_prompts", "train_prompts", "extractor")])


def curve_facts(run: Run) -> dict[str, Any]:
    """How the score rose: slope after episode 50 with its interval, last state, seconds."""
    data = columns(run, "policy_updates", ["batch_score", "time_per_episode"])
    score, times = data["batch_score"], data["time_per_episode"]
    return {
        "episodes": len(score),
        "after_50": late_slope(score),
        "state": trend(score).state,
        "minutes": float(np.nansum(times) / 60),
        "seconds_per_episode": float(np.nanmedian(times)),
        "curve": score.tolist(),
    }


@dataclass
class Base:
    """What every arm is compared with.

    Attributes:
        protocol: what is drawn.
        stage: who judges, and the ceiling.
        backbone, model: the base model and its `weights_digest`.
        images: the base's, uint8 [N, h, w, 3].
        seen: the same as the judges see them.
    """

    protocol: Protocol
    stage: Stage
    backbone: Backbone
    model: str
    images: np.ndarray
    seen: Measured


def frozen_base(config: TrainConfig, chosen: Namespace) -> tuple[Backbone, str]:
    """The base model and its digest, once it is sure that earlier arms were measured on the same."""
    backbone = open_backbone(config, chosen.device)
    model = weights_digest(backbone)
    freeze(chosen.results / "learning", frozen_facts(config, protocol_for(config, chosen.images), model))
    return backbone, model


def judged_images(name: str, chosen: Namespace) -> int:
    """Images each of base and tuned model that an arm of this name is judged by; the first of more are those of fewer."""
    return chosen.images * TIMES_IMAGES.get(name, 1) if name in MODES else min(chosen.images, ABLATION_IMAGES)


def judge_base(config: TrainConfig, chosen: Namespace, images: int | None = None) -> Base:
    """The base model on its stage, judged by so many images; by default those of published figures."""
    backbone, model = frozen_base(config, chosen)
    protocol = protocol_for(config, images or chosen.images)
    stage = set_stage(config, protocol, str(resolve_device(chosen.device)))
    drawn = base_images(config, protocol, backbone, model)
    return Base(protocol, stage, backbone, model, drawn, stage.judges.measure(drawn))


def train_and_judge(arm: str, chosen: Namespace) -> dict[str, Any]:
    """One training run, its raw gain, and what the judges say."""
    config = arm_config(arm, chosen.set)
    frozen_base(config, chosen)  # before an hour of training, not after it
    code = git_revision()
    run, command, _ = train_arm(config, chosen.runs / "learning" / arm.replace(":", "_"))
    name, policy = arm.partition(":")[0], newest_policy(run)
    if name in MODES:
        policy = Path(shutil.copytree(policy, kept_policy(arm, chosen), dirs_exist_ok=True))
    facts = {"name": name, "seed": config.seed, "command": command, "commit": code, "settings": config.model_dump()}
    return {**facts, **curve_facts(run), **judge_policy(config, policy, chosen, judged_images(name, chosen))}


def judge_policy(config: TrainConfig, policy: Path, chosen: Namespace, images: int) -> dict[str, Any]:
    """The raw gain of a saved policy, and what the judges say; `images` as in `judge_base`."""
    digest = policy_digest(policy)
    base = judge_base(config, chosen, images)
    tuned = tuned_images(config, policy, base.protocol, base.model, chosen.device)
    verdict = judge(base.stage, base.seen, [base.stage.judges.measure(tuned)])
    raw = raw_gain(config, chosen, base.protocol, base.images, tuned)
    return {"policy_sha256": digest, "images": base.protocol.images, "raw": raw, "verdict": verdict, "judge": base.stage.judges.describe(), "machine": machine(chosen.device)}


def judge_mixture(chosen: Namespace) -> dict[str, Any]:
    """The average of what both seeds of `default` have learned; they are trained where they are not there yet."""
    configs = [arm_config(f"default:{seed}", chosen.set) for seed in ABLATION_SEEDS]
    frozen_base(configs[0], chosen)
    folder = chosen.runs / "learning"
    runs = [train_arm(config, folder / f"default_{config.seed}")[0] for config in configs]
    policy = mix_checkpoints([newest_policy(run) for run in runs], folder / "mixture").parent
    facts = {"name": "mixture", "commit": git_revision(), "settings": configs[0].model_dump()}
    facts["seconds_per_episode"] = float(np.mean([curve_facts(run)["seconds_per_episode"] for run in runs]))
    return {**facts, **judge_policy(configs[0], policy, chosen, judged_images("mixture", chosen))}


def raw_gain(config: TrainConfig, chosen: Namespace, protocol: Protocol, base: np.ndarray, tuned: np.ndarray) -> dict[str, Any]:
    """Paired gain of the default reward's raw group score on the first 256 images."""
    reward = reward_for(scored_by(config, chosen.set), resolve_device(chosen.device))
    before, after = (group_scores(reward, images[:SCORED], protocol.captions[:SCORED]) for images in (base, tuned))
    return {"base": float(before.mean()), "tuned": float(after.mean()), **paired_gain(after, before), "gains": (after - before).tolist()}


def report(what: str, share: float) -> None:
    """Progress on the terminal."""
    print(f"  {share:4.0%} {what}", flush=True)


def score_grid(chosen: Namespace) -> dict[str, Any]:
    """Constant guidance and spacing, scored by the reward."""
    config = arm_config("SCHEDULER_POLICY:0", chosen.set)
    protocol = protocol_for(config, min(GRID_IMAGES, chosen.images))
    backbone, model = frozen_base(config, chosen)
    reward = reward_for(config, resolve_device(chosen.device))

    def score(images: np.ndarray) -> np.ndarray:
        return group_scores(reward, images, protocol.captions)

    found = grid_search(config, protocol, backbone, model, score, progress=report)
    return {**found, "images": protocol.images, "machine": machine(chosen.device)}


def score_constant(chosen: Namespace) -> dict[str, Any]:
    """The raw gain of the grid's best constant, group by group as for the policies.

    Raises:
        InputError: there is no grid yet.
    """
    grid = read(chosen.results / "learning" / "grid.json")
    if grid is None:
        raise InputError("the best constant is the grid's: run --arm grid first")
    config, best = arm_config("SCHEDULER_POLICY:0", chosen.set), grid["best"]
    backbone, model = frozen_base(config, chosen)
    protocol = protocol_for(config, min(SCORED, chosen.images))
    base = base_images(config, protocol, backbone, model)
    drawn = base_images(config, replace(protocol, guidance=best["guidance"]), backbone, model, best["warp"])
    facts = {"guidance": best["guidance"], "warp": best["warp"], "images": protocol.images, "machine": machine(chosen.device)}
    return facts | {"raw": raw_gain(config, chosen, protocol, base, drawn)}


def judge_trivial(chosen: Namespace) -> dict[str, Any]:
    """The best constant guidance under the guards, by the judges."""
    config = arm_config("LORA_UNET:0", chosen.set)
    base = judge_base(config, chosen)
    found = trivial_baseline(config, base.stage, base.backbone, base.model, base.seen, TRIVIAL, progress=report)
    return {**found, "images": len(base.images), "machine": machine(chosen.device)}


def judge_attainable(chosen: Namespace) -> dict[str, Any]:
    """The share of the gap that a perfect denoiser would close."""
    base = judge_base(arm_config("LORA_UNET:0", chosen.set), chosen)
    return {"gap": attainable(base.stage, base.backbone, base.seen, progress=report), "images": len(base.images), "machine": machine(chosen.device)}


def kept_policy(arm: str, chosen: Namespace) -> Path:
    """Where the trained policy of an arm is kept beside its result, so that whoever has the results can draw with it and judge it."""
    return chosen.results / "learning" / "policies" / arm.replace(":", "_")


def judge_together(mode: str, chosen: Namespace) -> dict[str, Any] | None:
    """All training seeds of a policy in one comparison, from the policies that are kept; None while a seed is missing.

    The comparison that stands in `summary.json` is given back where it is of the same policies and the same images.
    """
    arms = [f"{mode}:{seed}" for seed in SEEDS]
    results = [read(chosen.results / "learning" / f"{arm.replace(':', '_')}.json") for arm in arms]
    policies = [kept_policy(arm, chosen) for arm in arms]
    if None in results or not all(policy.is_dir() for policy in policies):
        return None
    facts = {"policies_sha256": [policy_digest(policy) for policy in policies], "images": results[0]["images"]}
    before = ((read(chosen.results / "learning" / "summary.json") or {}).get("together") or {}).get(mode) or {}
    if all(before.get(name) == value for name, value in facts.items()):
        return before
    configs = [make_config(result["settings"]) for result in results]
    base = judge_base(configs[0], chosen, facts["images"])
    tuned = [base.stage.judges.measure(tuned_images(config, policy, base.protocol, base.model, chosen.device)) for config, policy in zip(configs, policies, strict=True)]
    return {**judge(base.stage, base.seen, tuned), **facts}


def work(arm: str, chosen: Namespace) -> dict[str, Any]:
    """One arm."""
    special = {"grid": score_grid, "constant": score_constant, "trivial": judge_trivial, "attainable": judge_attainable, "mixture": judge_mixture}
    return special[arm](chosen) if arm in special else train_and_judge(arm, chosen)


def main() -> int:
    """Run the arms that were asked for and write the tables."""
    chosen = parse(__doc__, ARMS, IMAGES)
    try:
        if not chosen.table:
            run_arms(chosen.arm or ARMS, chosen.results / "learning", lambda arm: work(arm, chosen))
        text = write_tables(chosen.results, ARMS, {mode: judge_together(mode, chosen) for mode in MODES})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
