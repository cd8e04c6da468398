"""Fine-tuning of the embedded model on a person's own pictures, with renders mixed in against forgetting."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.base_model.card import training_rows
from backend.base_model.data import alike, mixture
from backend.base_model.decoder import train_decoder
from backend.base_model.denoiser import Denoiser, Pairs, build_scheduler, make_batch, step_loss, train_denoiser
from backend.base_model.linear_code import LinearCode, read_code
from backend.base_model.pictures import Pictures, cut_notes
from backend.base_model.progress import STAGES, claim
from backend.base_model.recipe import MODEL, SHORTENED, WORK, Log, Recipe, assemble, open_parts, render, sharpen, training_record, weights_sha256
from backend.base_model.target import check_target, replace_folder
from backend.errors import InputError
from backend.reference.captions import caption

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

LOSS_BATCHES = 8  # of 16 images: the loss before and after is a paired comparison, so few are enough


@dataclass(frozen=True)
class FineTuning:
    """Numbers of one fine-tuning.

    Attributes:
        decoder_steps: optimiser steps of 32 crops each; 0 leaves the decoder as it is.
        denoiser_steps: optimiser steps of `batch` images each.
        sharpen_steps: optimiser steps of the decoder against a discriminator, 8 pictures each; 0 leaves it as it is.
        finish_steps: the same of the denoiser's last sampler steps, after them.
        batch: images of a denoiser step.
        learning_rate: of the denoiser; a fifth of the training from nothing.
        decoder_learning_rate: peak of the decoder's.
        renders_share: share of rendered pairs among the images drawn, in [0, 1): they keep what the model knows already.
        renders: how many rendered images there are to draw from.
        seed: of everything.
        device: cpu or cuda.
    """

    decoder_steps: int = 300
    denoiser_steps: int = 1_000
    sharpen_steps: int = 0
    finish_steps: int = 0
    batch: int = 32
    learning_rate: float = 2e-4
    decoder_learning_rate: float = 4e-4
    renders_share: float = 0.25
    renders: int = 2_048
    seed: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 0 <= self.renders_share < 1:
            raise InputError(f"renders share {self.renders_share} is out of bounds: 0 (your pictures only) up to, not including, 1")
        if self.denoiser_steps < 1 or min(self.decoder_steps, self.sharpen_steps, self.finish_steps) < 0 or self.batch < 1:
            steps = f"{self.decoder_steps}, {self.denoiser_steps}, {self.sharpen_steps} and {self.finish_steps}"
            raise InputError(f"steps {steps}, batch {self.batch}: steps of the denoiser and batch are at least 1, those of decoder, sharpening and finish 0")


def fine_tune(
    pictures: Pictures,
    plan: FineTuning,
    out: Path,
    *,
    start_from: Path = MODEL,
    work: Path | None = None,
    renders: Path = WORK,
    overwrite: bool = False,
    note: Callable[[str], None] = print,
) -> Path:
    """Fine-tune a pipeline of this recipe; interrupted at any moment, the same call goes on exactly.

    Args:
        pictures: what `load_pictures` read.
        plan: numbers of the training.
        out: folder of the new pipeline; it appears only when all of it is there.
        start_from: pipeline whose weights are trained further; it is only read.
        work: folder of the progress; by default one named after the fingerprint of this training in `WORK/finetune`.
        renders: folder whose `renders` are mixed in; what is missing is rendered.
        overwrite: replace the pipeline that is in `out`.
        note: told what of the captions the text encoder does not read.

    Returns:
        `out`. Its training.json has the loss on the pictures and on renders before and after.

    Raises:
        InputError: `out` is there already, `start_from` is no such pipeline, `work` belongs to another training, or the
            disk is full.
    """
    check_target(out)
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: name a new folder with --out, or add --overwrite to replace it")
    vae, denoiser, tokenizer = open_parts(start_from, plan.seed + 1)
    job = {"pictures": pictures.sha256(), "start_from": weights_sha256(start_from)} | asdict(plan)
    for remark in cut_notes(pictures.captions, tokenizer):
        note(remark)
    work = work or WORK / "finetune" / hashlib.sha256(json.dumps(job).encode()).hexdigest()[:16]
    claim(work, job)
    log = Log(work)
    code, pairs = read_code(vae), _pairs(pictures, plan, renders, log)
    before = losses(denoiser, pairs, len(pictures.images), code, tokenizer, plan.device)
    train_decoder(
        vae, pairs.images, plan.decoder_steps, work / "decoder.pt", plan.seed,
        learning_rate=plan.decoder_learning_rate, draw=pairs.draw, log=log, device=plan.device,
    )  # fmt: skip
    tuned = train_denoiser(
        denoiser, pairs, code, tokenizer, plan.denoiser_steps, work / "denoiser.pt", plan.seed,
        batch=plan.batch, learning_rate=plan.learning_rate, log=log, device=plan.device,
    )  # fmt: skip
    sharpen(tuned, vae, tokenizer, pairs, (plan.sharpen_steps, plan.finish_steps), work, plan.seed, log, plan.device)
    after = losses(tuned, pairs, len(pictures.images), code, tokenizer, plan.device)
    record = asdict(plan) | {"pictures": len(pictures.images), "pictures_sha256": job["pictures"], "loss_before": before, "loss_after": after}
    record["started_from"] = training_record(start_from) | {"weights_sha256": job["start_from"]}
    replace_folder(out, lambda folder: assemble(tuned.to("cpu"), vae.to("cpu"), tokenizer, folder, record, training_rows(log.path)))
    for name in STAGES:
        (work / name).unlink(missing_ok=True)
    return out


def losses(model: Denoiser, pairs: Pairs, own: int, code: LinearCode, tokenizer: CLIPTokenizer, device: str = "cpu") -> dict[str, float]:
    """Mean squared error of v on the first `own` images and on the others, with noise and wording that are the same at each call."""
    model = copy.deepcopy(model).to(device).eval()
    abar = build_scheduler().alphas_cumprod.to(device)
    parts = {"pictures": alike(own)}
    if len(pairs.images) > own:
        parts["renders"] = lambda rng, batch: rng.integers(own, len(pairs.images), size=batch)
    found = {}
    for name, draw in parts.items():
        total = 0.0
        for index in range(LOSS_BATCHES):
            rng = np.random.default_rng([77, index])
            latents, tokens = (x.to(device) for x in make_batch(Pairs(pairs.images, pairs.aerial, pairs.caption, draw), code, tokenizer, rng, 16))
            with torch.inference_mode():
                total += step_loss(model, latents, tokens, abar, rng, device).item()
        found[name] = round(total / LOSS_BATCHES, 5)
    return found


def _pairs(pictures: Pictures, plan: FineTuning, renders: Path, log: Log) -> Pairs:
    """The pictures first, then the renders; a batch draws from both by `renders_share`."""
    own = len(pictures.images)
    if plan.renders_share == 0:
        return Pairs(pictures.images, pictures.aerial, lambda i, rng: pictures.captions[i])
    images, params = render(Recipe(images=plan.renders), renders, log)

    def worded(i: int, rng: np.random.Generator) -> str:
        return pictures.captions[i] if i < own else caption(params[i - own], rng if rng.random() < SHORTENED else None)

    aerial = np.concatenate([pictures.aerial, [p.view == "aerial" for p in params]])
    return Pairs(np.concatenate([pictures.images, images]), aerial, worded, mixture(own, len(images), plan.renders_share))
