"""The whole recipe of the embedded model: render, code, decoder, denoiser, sharpening, assemble. Every stage resumes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError

from backend.base_model.card import loss_figure, training_cost, training_rows
from backend.base_model.data import alike, load_dataset, render_dataset
from backend.base_model.decoder import train_decoder
from backend.base_model.denoiser import Denoiser, Pairs, build_scheduler, build_unet, train_denoiser, with_pooled_caption
from backend.base_model.linear_code import LATENT_CHANNELS, LinearCode, build_autoencoder, fit_linear_code, read_code
from backend.base_model.progress import STAGES, claim, whole_file
from backend.base_model.sharpen import sharpen_model
from backend.base_model.target import check_target, replace_folder
from backend.base_model.text import build_text_encoder, build_tokenizer
from backend.base_model.unfinished import draw_unfinished
from backend.base_model.widen import check_channels, widen, widen_code
from backend.errors import InputError
from backend.reference.captions import VOCABULARY, caption
from backend.runs.files import disk_errors

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionPipeline
    from transformers import CLIPTokenizer

WORK = Path(".cache/base_model")
MODEL = Path("assets/models/crater-tiny")
DESCRIBED = ("README.md", "sheet.png")  # of the model before; `measure` writes those of the new one
SHORTENED = 0.6  # share of the training captions that leave words out; the others say all
DRAWN = 1024  # the denoiser's own pictures that it and the decoder are finished on
CODE_IMAGES = 2048  # enough patches (half a million) for 192 principal components


@dataclass(frozen=True)
class Recipe:
    """Numbers of one training.

    Attributes:
        images: rendered training images.
        decoder_steps: optimiser steps of 32 crops each.
        denoiser_steps: optimiser steps of `batch` images each.
        sharpen_steps: optimiser steps of the decoder against a discriminator, 8 pictures each; 0 leaves it as it is.
        finish_steps: the same of the denoiser's last sampler steps, after them; 0 leaves them as they are.
        batch: images of a denoiser step.
        learning_rate: of the denoiser.
        channels: of the latents; None keeps those of the pipeline that is trained further, and takes 24 from nothing.
        seed: of everything.
        device: cpu or cuda.
    """

    images: int = 20_480
    decoder_steps: int = 4_000
    denoiser_steps: int = 31_000
    sharpen_steps: int = 1_000
    finish_steps: int = 300
    batch: int = 32
    learning_rate: float = 1e-3
    channels: int | None = None
    seed: int = 1
    device: str = "cpu"


def cuda_recipe() -> Recipe:
    """The same recipe at a size for a data-centre GPU."""
    return Recipe(images=65_536, decoder_steps=20_000, denoiser_steps=30_000, sharpen_steps=2_000, finish_steps=600, batch=256, device="cuda")


class Log:
    """Appends rows to log.jsonl and prints them."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made ({error.strerror}): name another folder with --work") from error
        self.path = folder / "log.jsonl"

    def __call__(self, row: dict) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror}): free some space and run the same command again; it goes on from the last save") from error
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)


@contextmanager
def initialisation(seed: int) -> Iterator[None]:
    """Weights made inside are a function of the seed; the process' own random state is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def render(recipe: Recipe, work: Path = WORK, log: Log | None = None) -> tuple[np.ndarray, list]:
    """Render what is missing of the training set and load it: images uint8 [N, h, w, 3] and parameters.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    log, began = log or Log(work), time.time()
    try:
        for done in render_dataset(work / "renders", recipe.images, recipe.seed):
            log({"stage": "render", "images": done, "seconds": round(time.time() - began, 1)})
    except OSError as error:
        raise InputError(f"renders cannot be written to {work / 'renders'} ({error.strerror}): free some space and run the same command again; it goes on where it was") from error
    return load_dataset(work / "renders", recipe.images)


def linear_code(images: np.ndarray, work: Path = WORK, channels: int | None = None) -> LinearCode:
    """The patch code of the training set, fitted once and kept.

    Raises:
        InputError: the code that is kept has another number of channels than asked for.
    """
    path = work / "code.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            if channels not in (None, len(kept["matrix"])):
                files = ", ".join((*STAGES, "job.json"))
                raise InputError(f"{channels} latent channels: {work} holds a training with {len(kept['matrix'])}: name another folder with --work, or delete {files} there")
            return LinearCode(kept["matrix"], kept["offset"], float(kept["kept"]), float(kept["scaling_factor"]))
    code = fit_linear_code(images[:CODE_IMAGES], channels or LATENT_CHANNELS)
    with whole_file(path) as file:
        np.savez(file, matrix=code.matrix, offset=code.offset, kept=code.kept, scaling_factor=code.scaling_factor)
    return code


def run_recipe(recipe: Recipe, work: Path = WORK, out: Path = MODEL, start_from: Path | None = None) -> Path:
    """Do every stage that is not done yet and write the pipeline.

    Args:
        recipe: numbers of the training.
        work: renders and progress; a stage that finds its progress goes on from it.
        out: folder of the pipeline.
        start_from: folder of a pipeline of this recipe whose weights are trained further; None starts from nothing.

    Raises:
        InputError: `start_from` is no such pipeline, has more channels than asked for or is `out` itself, `work` holds another training's
            progress, or the disk is full; running the same command again goes on.
    """
    if start_from is not None and out.resolve() == start_from.resolve():
        raise InputError(f"{out} is where the training starts from: name another folder with --out, or the same command could not go on after an interruption")
    check_target(out)
    start = _start(recipe, start_from)  # before the work folder is this training's
    log = Log(work)
    numbers = {name: value for name, value in asdict(recipe).items() if name != "device"}
    claim(work, numbers | {"start_from": weights_sha256(start_from) if start_from else None})
    images, params = render(recipe, work, log)
    vae, denoiser, tokenizer, code = _from_nothing(recipe, images, work) if start is None else _further(recipe, images, *start)
    train_decoder(vae, images, recipe.decoder_steps, work / "decoder.pt", recipe.seed, log=log, device=recipe.device)
    pairs = Pairs(images, np.array([p.view == "aerial" for p in params]), lambda i, rng: caption(params[i], rng if rng.random() < SHORTENED else None))
    ema = train_denoiser(
        denoiser, pairs, code, tokenizer, recipe.denoiser_steps, work / "denoiser.pt", recipe.seed,
        batch=recipe.batch, learning_rate=recipe.learning_rate, log=log, device=recipe.device,
    )  # fmt: skip
    sharpen(ema, vae, tokenizer, pairs, (recipe.sharpen_steps, recipe.finish_steps), work, recipe.seed, log, recipe.device)
    record = asdict(recipe) | ({"started_from": training_record(start_from)} if start_from else {})
    replace_folder(out, lambda folder: assemble(ema, vae.to("cpu"), tokenizer, folder, record, training_rows(log.path)), DESCRIBED)
    return out


Parts = tuple["AutoencoderTiny", Denoiser, "CLIPTokenizer", LinearCode]


def _start(recipe: Recipe, start_from: Path | None) -> Parts | None:
    """Parts of the pipeline that is trained further, if any, once it is known that the recipe can go on from them."""
    if start_from is None:
        return None
    vae, denoiser, tokenizer = open_parts(start_from, recipe.seed + 1)
    code = read_code(vae)
    if recipe.channels is not None:
        check_channels(code, recipe.channels)
    return vae, denoiser, tokenizer, code


def _from_nothing(recipe: Recipe, images: np.ndarray, work: Path) -> Parts:
    code = linear_code(images, work, recipe.channels)
    with initialisation(recipe.seed):
        vae = build_autoencoder(code)
    tokenizer = build_tokenizer(VOCABULARY)
    with initialisation(recipe.seed + 1):
        denoiser = Denoiser(build_unet(len(code.matrix)), build_text_encoder(tokenizer))
    return vae, denoiser, tokenizer, code


def _further(recipe: Recipe, images: np.ndarray, vae: AutoencoderTiny, denoiser: Denoiser, tokenizer: CLIPTokenizer, code: LinearCode) -> Parts:
    if recipe.channels not in (None, len(code.matrix)):
        code = widen_code(code, images[:CODE_IMAGES], recipe.channels)
        with initialisation(recipe.seed):
            vae, denoiser = widen(vae, denoiser, code)
    return vae, denoiser, tokenizer, code


def sharpen(denoiser: Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, pairs: Pairs, steps: tuple[int, int], work: Path, seed: int, log: Log, device: str = "cpu") -> None:
    """Finish decoder and denoiser in place, on pictures that the denoiser draws; see `sharpen_model`. Both parts go on from `work`.

    Args:
        denoiser, vae, tokenizer: the model so far.
        pairs: its pictures and captions.
        steps: of the decoder and of the denoiser; none does nothing.
        work, seed, log, device: as elsewhere here.

    Raises:
        InputError: the disk is full.
    """
    if not any(steps):
        return
    path, draw = work / "unfinished.npz", pairs.draw or alike(len(pairs.images))
    if not path.exists():
        rng = np.random.default_rng([seed, 4])
        prompts = [pairs.caption(int(i), rng) for i in draw(rng, DRAWN)]
        drawn = draw_unfinished(build_pipeline(denoiser, vae, tokenizer).to(device), prompts, seed, pairs.images.shape[1:3], log)
        with whole_file(path) as file:
            np.savez(file, **drawn)
    with np.load(path, allow_pickle=False) as kept:
        drawn = dict(kept)
    sharpen_model(vae, denoiser, tokenizer, pairs, drawn, *steps, work / "finish.pt", seed, log=log, device=device)


def open_parts(folder: Path, seed: int) -> tuple[AutoencoderTiny, Denoiser, CLIPTokenizer]:
    """Autoencoder, denoiser and tokenizer of a pipeline that this recipe wrote, in single precision.

    Raises:
        InputError: the folder holds no pipeline of an `AutoencoderTiny`.
    """
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: name a folder that `base-model train` wrote")
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder} holds no pipeline ({str(error).splitlines()[0]}): name a folder that `base-model train` wrote") from error
    if not isinstance(pipeline.vae, AutoencoderTiny):
        raise InputError(f"{folder} has a {type(pipeline.vae).__name__}, this recipe an AutoencoderTiny: name a folder that `base-model train` wrote")
    # Built anew, since a loaded part's config keeps the folder it came from.
    with initialisation(seed):
        unet, vae = with_pooled_caption(pipeline.unet), build_autoencoder(read_code(pipeline.vae))
    vae.load_state_dict(pipeline.vae.state_dict())
    return vae, Denoiser(unet, pipeline.text_encoder), pipeline.tokenizer


def training_record(folder: Path) -> dict:
    """The record of an earlier training; empty where there is none."""
    path = folder / "training.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def weights_sha256(folder: Path) -> str:
    """Hash of a pipeline's weights: UNet, text encoder and autoencoder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build_pipeline(denoiser: Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as a diffusers pipeline; it shares their weights."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=denoiser.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=denoiser.unet.eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def assemble(denoiser: Denoiser, vae: AutoencoderTiny, tokenizer: CLIPTokenizer, out: Path, record: dict, rows: Sequence[dict] = ()) -> Path:
    """Write a diffusers `StableDiffusionPipeline` in half precision, with a record of how it was made and, by the rows of a training's log, what that took and its losses' curves.

    Raises:
        InputError: the folder cannot be written.
    """
    pipeline = build_pipeline(denoiser.to("cpu"), vae.to("cpu"), tokenizer)
    try:
        with disk_errors():
            pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
            _load_in_full(out / "text_encoder/config.json")
        if rows:
            record = record | {"seconds": training_cost(rows)}
            loss_figure(rows, out / "losses.png")
        (out / "training.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the model cannot be written to {out} ({error.strerror or error}): free some space and run the same command again") from error
    return out


def _load_in_full(config: Path) -> None:
    """Name float32 as the dtype to load in: transformers takes the saved one where none is asked for, diffusers' parts float32, and the two would not fit."""
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(values | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")
