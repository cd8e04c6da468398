"""Before and after: `evaluate_run` draws base and tuned images of the test prompts and lets the judges compare them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from backend.config import TrainConfig
from backend.config.ensemble import parse_ensemble
from backend.diffusion.backbone import Backbone
from backend.diffusion.sampler import ShouldStop, check_stop
from backend.errors import InputError
from backend.evaluation import renders
from backend.evaluation.compare import compare, diversity_rows
from backend.evaluation.generate import BATCH, Progress, base_images, draw, find_checkpoint, load_policy, open_backbone, weights_digest
from backend.evaluation.judges import JUDGE, SIZE, Judges, Measured
from backend.evaluation.manifold import K, nearest
from backend.evaluation.notes import notes_on, on_words
from backend.evaluation.protocol import PUBLISHED, Protocol, protocol_for
from backend.evaluation.results import write_results
from backend.evaluation.samples import write_evolution
from backend.policies.base import Policy
from backend.reference.dataset import load_reference
from backend.reference.prompts import load_prompts, said_of_overlap
from backend.runs import Run

TRIVIAL = (0.6, 1.4)  # constant guidances that a policy must beat, in units of the run's own: most models vary more at a lower one, the embedded model at a higher
BOOTSTRAP_SEED = 20_260_101  # one resampling for all, so that an evaluation can be repeated to the digit


@dataclass
class Stage:
    """Everything that evaluation needs of the side that is not tuned; shared by all runs of one base.

    Attributes:
        protocol: what is drawn.
        judges: who looks.
        reference, ceiling: as the judges see them.
        pictures: the ceiling's, uint8 [N, h, w, 3].
        wanted: [N, A] what the prompts say of the crater attributes; None for photographs.
        simulated: the reference set is rendered, so ceiling and held-out images can be rendered too.
    """

    protocol: Protocol
    judges: Judges
    reference: Measured
    ceiling: Measured
    pictures: np.ndarray
    wanted: np.ndarray | None
    simulated: bool
    notes: list[str]


def set_stage(
    config: TrainConfig, protocol: Protocol, device: str = "cpu", real_images: int | None = None, progress: Progress | None = None, should_stop: ShouldStop | None = None
) -> Stage:
    """Render or load what tuned images are compared with.

    Args:
        config: names the reference set.
        protocol: prompts and seeds.
        device: of the judge's network.
        real_images: held-out renders; by default 2000 at the published number of images, else 400.
        progress, should_stop: callbacks.
    """
    reference = load_reference(config.reference, field="reference")
    usual = renders.HELD_OUT if protocol.images >= PUBLISHED else renders.HELD_OUT_SMALL
    count = usual if real_images is None else real_images
    notes = on_words(protocol.prompts, reference.simulated)
    if not reference.simulated:
        judges = Judges(reference.images, None, device, reference.digest)
        seen = judges.real
        notes.append("the reference set is not rendered: it stands for the ceiling and for the real side, and neither caption adherence nor memorisation is measured")
        return Stage(protocol, judges, seen, seen, reference.images, None, False, notes)
    real, targets = renders.held_out(count, SIZE, should_stop, _share(progress, "rendering held-out craters"))
    judges = Judges(real, targets, device, f"heldout-{count}-{SIZE}")
    pictures = renders.ceiling_images(protocol, SIZE, should_stop, _share(progress, "rendering the ceiling"))
    said = renders.prompt_targets(protocol.prompts)
    wanted = said[np.arange(protocol.images) % len(protocol.prompts)]
    return Stage(protocol, judges, judges.measure(reference.images), judges.measure(pictures), pictures, wanted, True, notes)


def _share(progress: Progress | None, what: str) -> Callable[[float], None] | None:
    return None if progress is None else partial(progress, what)


def judge(stage: Stage, base: Measured, tuned: list[Measured]) -> dict[str, Any]:
    """Compare base and tuned images on a stage; see `compare`."""
    return compare(base, tuned, stage.ceiling, stage.reference, stage.judges, stage.wanted, np.random.default_rng(BOOTSTRAP_SEED))


def attainable(stage: Stage, backbone: Backbone, base: Measured, progress: Progress | None = None, should_stop: ShouldStop | None = None) -> dict[str, float] | None:
    """Share of the diversity gap (Lite2) that a perfect denoiser would close, with its interval: the ceiling through the autoencoder.

    What encoding and decoding take from the ceiling, no policy can give back. None where there is no ceiling but the reference set.

    Raises:
        Stopped: the callback said so.
    """
    if not stage.simulated:
        return None
    told, decoded = _share(progress, "encoding and decoding the ceiling"), []
    for start in range(0, len(stage.pictures), BATCH):
        check_stop(should_stop)
        planes = torch.from_numpy(stage.pictures[start : start + BATCH]).permute(0, 3, 1, 2).float() / 255
        decoded.append((backbone.reconstruct(planes) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
        if told is not None:
            told(min(1.0, (start + BATCH) / len(stage.pictures)))
    seen = stage.judges.measure(np.concatenate(decoded))
    _, gaps = diversity_rows(base, [seen], stage.ceiling, stage.judges, np.random.default_rng(BOOTSTRAP_SEED))
    return gaps["lite2"].to_dict()


def trivial_baseline(
    config: TrainConfig,
    stage: Stage,
    backbone: Backbone,
    digest: str,
    base: Measured,
    guidances: tuple[float, ...],
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
) -> dict[str, Any]:
    """The best constant guidance under the same guards; a learned policy must beat it to count.

    Args:
        config, stage, backbone, digest: as elsewhere here; the backbone has no adapters yet.
        base: what the judges saw at the run's own guidance.
        guidances: candidates.

    Returns:
        `best` (guidance, gap_closed: the run's own guidance, which closes nothing, where no candidate passes and does better) and `candidates`.
    """
    candidates = []
    for guidance in guidances:
        changed = replace(stage.protocol, guidance=guidance)
        images = base_images(config, changed, backbone, digest, progress=_share(progress, f"drawing guidance {guidance:g}"), should_stop=should_stop)
        found = judge(stage, base, [stage.judges.measure(images)])
        candidates.append({"guidance": guidance, "gap_closed": found["gap_closed"], "gap": found["gap"].get("lite2"), "guards": found["guards"]})
    passed = [{"guidance": c["guidance"], "gap_closed": c["gap_closed"]} for c in candidates if c["guards"]["passed"] and c["gap_closed"] is not None]
    return {"best": max([{"guidance": stage.protocol.guidance, "gap_closed": 0.0}, *passed], key=lambda c: c["gap_closed"]), "candidates": candidates}


def reward_sees_judge(config: TrainConfig) -> bool:
    """Whether a part of the run's reward looks through the judge's own network."""
    parts = parse_ensemble(config.ensemble, config.extractor)
    return JUDGE in ({part.extractor for part in parts} or {config.extractor})


def evaluate_run(
    run: Run,
    images: int | None = None,
    checkpoint: str | None = None,
    device: str = "auto",
    guidances: tuple[float, ...] | None = None,
    real_images: int | None = None,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run on its test prompts and write the result into the run directory.

    Args:
        run: the run.
        images: N, each of base, tuned and ceiling; the config's `eval_images` if None. Published figures use 1024.
        checkpoint: name, episode number, `best` or `last` (default).
        device: auto, cpu, cuda.
        guidances: candidates of the trivial baseline; by default one below and one above the run's own (`TRIVIAL`), empty leaves it out.
        real_images: held-out renders; see `set_stage`.
        progress: told what is being done and its finished share.
        should_stop: asked often.

    Returns:
        What evaluation.json holds: `images`, `small`, `gap_closed` (None where the reward saw the judge's network), `gap`, `attainable`, `table`, `guards`, `adherence`,
        `trivial`, `overlap` of test and training prompts in words, `notes`, hashes of model, protocol and judge.

    Raises:
        InputError: no checkpoint, too few images or renders, or a missing model, prompt file or reference set.
        Stopped: the callback said so; nothing is written.
    """
    if real_images is not None and real_images <= K:
        raise InputError(f"{real_images} held-out renders are too few to find {K} neighbours of each: give --real-images at least {K + 1}, or leave it out")
    started, path = time.monotonic(), find_checkpoint(run, checkpoint)
    config = run.config_at(path)
    protocol = protocol_for(config, config.eval_images if images is None else images)
    backbone = open_backbone(config, device)
    digest = weights_digest(backbone)
    base = base_images(config, protocol, backbone, digest, progress=_share(progress, "drawing the base"), should_stop=should_stop)
    stage = set_stage(config, protocol, str(backbone.device), real_images, progress, should_stop)
    seen_base = stage.judges.measure(base)
    tried = tuple(max(1.0, share * protocol.guidance) for share in TRIVIAL) if guidances is None else guidances
    trivial = trivial_baseline(config, stage, backbone, digest, seen_base, tried, progress, should_stop) if tried else None
    reach = attainable(stage, backbone, seen_base, progress, should_stop)
    policy = load_policy(config, backbone, path)
    tuned = draw(backbone, policy, protocol.captions, protocol.seeds, protocol.steps, protocol.guidance, _share(progress, "drawing the tuned model"), should_stop)
    seen = stage.judges.measure(tuned)
    result = judge(stage, seen_base, [seen]) | {"trivial": trivial, "attainable": reach} | _facts(run, path.name, protocol, stage, digest, policy)
    result["reward_saw_judge"] = reward_sees_judge(config)
    if result["reward_saw_judge"]:
        result["gap_closed"] = None
    result["notes"] = notes_on(result, stage.notes)
    result["seconds"] = round(time.monotonic() - started, 1)
    features = {"base": seen_base, "tuned": seen, "ceiling": stage.ceiling, "reference": stage.reference}
    near = nearest(seen.spaces["lite2"], stage.reference.spaces["lite2"])
    maps = {name: item.spaces["lite2"] for name, item in features.items()}
    write_results(run, result, (base, tuned), (protocol.captions, protocol.seeds), maps, near)
    write_evolution(run, lambda pictures: stage.judges.measure(pictures).spaces["lite2"], stage.judges.describe()["extractor"])
    return result


def _facts(run: Run, checkpoint: str, protocol: Protocol, stage: Stage, digest: str, policy: Policy) -> dict[str, Any]:
    """What has to be recorded so that the evaluation can be repeated."""
    return {
        "schema_version": 1,
        "run": run.id,
        "checkpoint": checkpoint,
        "images": protocol.images,
        "small": protocol.images < PUBLISHED,
        "prompts": len(protocol.prompts),
        "steps": protocol.steps,
        "guidance": protocol.guidance,
        "protocol_sha256": protocol.digest,
        "model_sha256": digest,
        "judge": stage.judges.describe(),
        "real_images": len(stage.judges.real),
        "trainable": policy.trainable_count,
        "overlap": overlap(run.config, protocol),
    }


def overlap(config: TrainConfig, protocol: Protocol) -> str:
    """What must be known of test prompts that the run was trained on; empty where there are none, or where its training prompts are not on this machine."""
    try:
        return said_of_overlap(protocol.prompts, load_prompts(config.train_prompts))
    except InputError:
        return ""
