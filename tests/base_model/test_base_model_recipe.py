"""The recipe's parts against independent computations, and its resumption bit for bit."""

from __future__ import annotations

import errno
import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.base_model import decoder, progress, recipe
from backend.base_model.batches import MOST_WORKERS, batches, workers_for
from backend.base_model.card import loss_figure, training_rows
from backend.base_model.data import augment, load_dataset, render_dataset
from backend.base_model.decoder import train_decoder
from backend.base_model.denoiser import Denoiser, Pairs, build_unet, learning_rate_factor, train_denoiser, with_pooled_caption
from backend.base_model.linear_code import PATCH, build_autoencoder, encode, fit_linear_code, read_code, to_patches
from backend.base_model.recipe import Log, Recipe, assemble, initialisation, linear_code, open_parts
from backend.base_model.text import build_text_encoder, build_tokenizer, with_unknown_words
from backend.base_model.widen import widen, widen_code
from backend.errors import InputError
from backend.reference.captions import VOCABULARY


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, size=(6, 64, 64, 3), dtype=np.uint8)


def test_encoder_is_exactly_the_principal_components(images: np.ndarray) -> None:
    code = fit_linear_code(images, channels=6)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latents = build_autoencoder(code).encode(x).latents
    expected = (to_patches(images) @ code.matrix.T + code.offset).reshape(6, 8, 8, 6).transpose(0, 3, 1, 2)
    assert np.abs(latents.numpy() - expected).max() < 1e-5
    assert torch.allclose(encode(code, images), latents * code.scaling_factor, atol=1e-5)


def test_code_is_read_back_from_the_weights(images: np.ndarray) -> None:
    code = fit_linear_code(images, channels=6)
    again = read_code(build_autoencoder(code))
    assert np.abs(again.matrix - code.matrix).max() < 1e-6 and np.abs(again.offset - code.offset).max() < 1e-6
    assert again.scaling_factor == code.scaling_factor


def test_kept_variance_is_that_of_sklearn(images: np.ndarray) -> None:
    from sklearn.decomposition import PCA

    kept = PCA(n_components=6).fit(to_patches(images).astype(np.float64)).explained_variance_ratio_.sum()
    assert fit_linear_code(images, channels=6).kept == pytest.approx(kept, rel=1e-6)


def test_every_word_is_one_token_and_others_are_spelled() -> None:
    tokenizer = build_tokenizer(VOCABULARY)
    for word in VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3, word
    assert len(tokenizer("quux").input_ids) > 3
    assert tokenizer.unk_token_id not in tokenizer("quux zürich").input_ids[1:-1]


def test_unknown_words_come_at_the_stated_share() -> None:
    rng = np.random.default_rng(0)
    changed = sum(with_unknown_words("aerial view", rng, 0.15) != "aerial view" for _ in range(2000))
    assert abs(changed / 2000 - 0.15) < 0.03


def test_augmentation_keeps_ground_views_upright() -> None:
    image = np.zeros((1, 16, 16, 3), np.uint8)
    image[:, :8] = 200  # sky
    for seed in range(8):
        assert (augment(image, np.array([False]), np.random.default_rng(seed)) == image).all()
    turned = [augment(image, np.array([True]), np.random.default_rng(seed)) for seed in range(8)]
    assert any((t != image).any() for t in turned)


def test_learning_rate_rises_and_falls() -> None:
    factors = [learning_rate_factor(step, 1000) for step in range(1000)]
    assert factors[0] < 0.01 and factors[199] == 1.0 > factors[400] > factors[600] and factors[-1] < 0.01


@pytest.mark.parametrize("steps", [0, 1, 18, 19, 20, 400])
def test_the_decoders_learning_rate_rises_and_falls_whatever_the_number_of_steps(steps: int) -> None:
    optimiser = torch.optim.AdamW(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    schedule, rates = decoder.one_cycle(optimiser, 2e-3, steps), []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert schedule.get_last_lr()[0] < 1e-7
    peak = int(np.argmax(rates)) if rates else 0
    assert peak <= 0.05 * steps and rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert not steps > 1 or max(rates) > 1.9e-3


def _train(images: np.ndarray, steps: int, total: int, state: Path) -> Denoiser:
    code = fit_linear_code(images, channels=4)
    tokenizer = build_tokenizer(VOCABULARY)
    with initialisation(3):
        model = Denoiser(build_unet(4), build_text_encoder(tokenizer))
    pairs = Pairs(images, np.ones(len(images), bool), lambda i, rng: "aerial view of mars craters")
    rows: list[dict] = []
    return train_denoiser(model, pairs, code, tokenizer, steps, state, 0, batch=2, log=rows.append, save_every=1)


def test_interrupted_training_goes_on_exactly(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.base_model.denoiser.learning_rate_factor", lambda step, steps: 1.0)
    whole = _train(images, 3, 3, tmp_path / "whole.pt")
    _train(images, 1, 3, tmp_path / "parts.pt")
    parts = _train(images, 3, 3, tmp_path / "parts.pt")
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_decoder_interrupted_between_two_saves_goes_on_exactly(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(state: Path) -> dict[str, torch.Tensor]:
        with initialisation(5):
            model = build_autoencoder(fit_linear_code(images, channels=4))
        train_decoder(model, np.tile(images, (1, 2, 2, 1)), 5, state, 0, batch=2, log=lambda row: None, save_every=2)
        return model.decoder.state_dict()

    crops, calls = decoder.random_crops, []

    def cut_off(*args: object) -> np.ndarray:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return crops(*args)

    whole = train(tmp_path / "whole.pt")
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "random_crops", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts.pt")
    parts = train(tmp_path / "parts.pt")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_who_makes_them(workers: int) -> None:
    def make(rng: np.random.Generator) -> tuple[int, np.ndarray]:
        return os.getpid(), rng.integers(0, 256, size=(4, 8, 8, 3), dtype=np.uint8)

    before = torch.get_rng_state()
    found = list(batches(make, (3, 5), 7, 20, workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert [step for step, _ in found] == list(range(7, 20))
    assert len({batch[0] for _, (batch, _) in found} - {os.getpid()}) == workers
    for step, ((_, crops), rng) in found:
        theirs = np.random.default_rng([3, 5, step])
        wanted = make(theirs)[1]
        assert isinstance(crops, np.ndarray) and np.array_equal(crops, wanted) and rng.random() == theirs.random()
    assert workers_for("cpu") == 0 and workers_for("cuda:0") <= MOST_WORKERS


def test_full_disk_is_a_sentence_and_keeps_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(2, 2)
    progress.save_progress(tmp_path / "p.pt", 1, {"layer": layer})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(progress.torch, "save", full)
    with pytest.raises(InputError, match="free some space"):
        progress.save_progress(tmp_path / "p.pt", 2, {"layer": layer})
    assert progress.restore(tmp_path / "p.pt", {"layer": layer}) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "p.pt"]


@pytest.mark.parametrize("save", ["torch", "numpy"])
def test_a_disk_that_fills_up_while_writing_is_a_sentence_and_leaves_nothing(tmp_path: Path, save: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))  # torch tells of it otherwise than numpy does
    try:
        with pytest.raises(InputError, match="free some space") as caught:
            if save == "torch":
                progress.save_progress(tmp_path / "p.pt", 1, {"layer": torch.nn.Linear(400, 400)})
            else:
                with progress.whole_file(tmp_path / "p.npy") as file:
                    np.save(file, np.zeros(160_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "(None)" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_whole_recipe_goes_on_and_its_folder_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.base_model.data.SHARD", 8)
    monkeypatch.setattr(recipe, "DRAWN", 2)
    plan = Recipe(images=8, decoder_steps=1, denoiser_steps=2, sharpen_steps=1, batch=2, channels=4)
    first = recipe.weights_sha256(recipe.run_recipe(plan, tmp_path / "work", tmp_path / "model"))
    Log(tmp_path / "work")({"stage": "decoder", "step": 1, "loss": 0.5, "seconds": 9.0})  # two steps are too few for a row
    assert recipe.weights_sha256(recipe.run_recipe(plan, tmp_path / "work", tmp_path / "again")) == first
    assert recipe.training_record(tmp_path / "again")["seconds"]["decoder"] == 9.0 and (tmp_path / "again/losses.png").is_file()
    for other, start in ((replace(plan, denoiser_steps=3), None), (plan, tmp_path / "model")):
        with pytest.raises(InputError, match="another training"):
            recipe.run_recipe(other, tmp_path / "work", tmp_path / "other", start)
    (tmp_path / "work/job.json").unlink()
    with pytest.raises(InputError, match="nothing is known"):
        recipe.run_recipe(plan, tmp_path / "work", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--work"):
        recipe.run_recipe(plan, tmp_path / "file", tmp_path / "other")


def test_assembled_pipeline_loads_in_plain_diffusers(images: np.ndarray, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    code = fit_linear_code(images, channels=4)
    tokenizer = build_tokenizer(VOCABULARY)
    with initialisation(0):
        folder = assemble(Denoiser(build_unet(4), build_text_encoder(tokenizer)), build_autoencoder(code), tokenizer, tmp_path / "model", {"seed": 0}, Log(tmp_path))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    image = pipeline("aerial view of mars craters", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 16 * PATCH, 16 * PATCH, 3)
    assert sum(f.stat().st_size for f in folder.rglob("*.safetensors")) < 40e6
    vae, denoiser, _ = open_parts(folder, 1)
    assert "_name_or_path" not in vae.config and "_name_or_path" not in denoiser.unet.config
    assert denoiser.unet.dtype == torch.float32 and np.abs(read_code(vae).matrix - code.matrix).max() < 1e-2


def test_a_unet_without_pooled_captions_gains_them_and_draws_the_same() -> None:
    from diffusers import UNet2DConditionModel

    with initialisation(0):
        config = {k: v for k, v in build_unet(4).config.items() if not k.startswith(("addition_", "_"))}
        old = UNet2DConditionModel(**config)
        new = with_pooled_caption(old)
        x, words = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 128)
    assert new.config.addition_embed_type == "text"
    time = torch.tensor([3, 900])
    assert torch.equal(new(x, time, words).sample, old(x, time, words).sample)
    torch.nn.init.ones_(new.add_embedding.norm2.weight)
    assert torch.equal(with_pooled_caption(new)(x, time, words).sample, new(x, time, words).sample)


def test_further_training_needs_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="base-model train"):
        open_parts(tmp_path, 1)


def test_a_start_that_cannot_be_trained_further_leaves_the_work_folder_free(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "render", lambda *args: pytest.fail("rendered"))
    code, tokenizer = fit_linear_code(images, channels=4), build_tokenizer(VOCABULARY)
    with initialisation(0):
        start = assemble(Denoiser(build_unet(4), build_text_encoder(tokenizer)), build_autoencoder(code), tokenizer, tmp_path / "start", {}, Log(tmp_path))
    for channels, folder, message in ((None, tmp_path / "mistyped", "base-model train"), (3, start, "has 4 already"), (65, start, "give one of 4 to 64")):
        with pytest.raises(InputError, match=message):
            recipe.run_recipe(Recipe(channels=channels), tmp_path / "work", tmp_path / "out", folder)
        assert not (tmp_path / "work").exists()


def test_rendered_shards_resume_and_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.base_model.data.SHARD", 2)
    monkeypatch.setattr("backend.base_model.data.SIZE", 32)
    list(render_dataset(tmp_path / "a", 4, seed=1, workers=1))
    first, params = load_dataset(tmp_path / "a")
    (tmp_path / "a/shard_00001.npy").unlink()
    list(render_dataset(tmp_path / "a", 4, seed=1, workers=1))
    again, _ = load_dataset(tmp_path / "a")
    assert (first == again).all() and len(params) == 4


def test_widened_model_draws_what_it_drew_and_its_new_channels_are_the_next_components(images: np.ndarray) -> None:
    code = fit_linear_code(images, channels=6)
    with initialisation(4):
        vae, denoiser = build_autoencoder(code), Denoiser(build_unet(6), build_text_encoder(build_tokenizer(VOCABULARY)))
        torch.nn.init.normal_(denoiser.unet.conv_out.weight)
        wide = widen_code(code, images, 10)
        wider, larger = widen(vae, denoiser, wide)
    whole = fit_linear_code(images, channels=10)
    ratio = wide.matrix / whole.matrix
    assert np.allclose(ratio, ratio[0, 0], rtol=1e-5) and wide.kept == pytest.approx(whole.kept, rel=1e-9)
    assert np.allclose(read_code(wider).matrix, wide.matrix, atol=1e-6)
    latents, tokens, times = torch.randn(2, 10, 16, 16), torch.zeros(2, 16, dtype=torch.long), torch.tensor([10, 900])
    with torch.inference_mode():
        assert torch.allclose(larger(latents, times, tokens)[:, :6], denoiser(latents[:, :6], times, tokens), atol=1e-5)
        assert (larger(latents, times, tokens)[:, 6:] == 0).all()
        assert torch.allclose(wider.decode(latents).sample, vae.decode(latents[:, :6]).sample, atol=1e-5)
    with pytest.raises(InputError, match="has 6 already"):
        widen_code(code, images, 5)
    with pytest.raises(InputError, match="give one of 6 to 64"):  # what the encoder is wide enough for
        widen_code(code, images, 65)


def test_loss_figure_has_a_panel_for_each_stage_that_was_trained(tmp_path: Path) -> None:
    widths = []
    for stages in (("denoiser",), ("decoder", "denoiser", "sharpen")):
        rows = [{"stage": "render", "images": 5, "seconds": 1.0}, *({"stage": stage, "step": step, "loss": 1 / step} for stage in stages for step in (1, 2))]
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
        loss_figure(training_rows(tmp_path / "log.jsonl"), tmp_path / "losses.png")
        widths.append(Image.open(tmp_path / "losses.png").width)
    assert widths[1] == pytest.approx(3 * widths[0], abs=2)


def test_kept_code_of_other_channels_is_refused_not_ignored(images: np.ndarray, tmp_path: Path) -> None:
    assert len(linear_code(images, tmp_path, 5).matrix) == len(linear_code(images, tmp_path).matrix) == 5
    with pytest.raises(InputError, match="training with 5"):
        linear_code(images, tmp_path, 6)


def test_the_code_of_another_training_is_named_with_its_progress_and_not_taken_over(tmp_path: Path) -> None:
    progress.claim(tmp_path, {"channels": 4})
    for name in progress.STAGES:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="delete code.npz, decoder.pt, .* job.json there") as caught:
        progress.claim(tmp_path, {"channels": None})
    for name in str(caught.value).partition("delete ")[2].removesuffix(" there").split(", "):
        (tmp_path / name).unlink()
    progress.claim(tmp_path, {"channels": None})  # the remedy helps
    (tmp_path / "job.json").unlink()
    (tmp_path / "code.npz").touch()
    with pytest.raises(InputError, match="nothing is known of .code.npz"):
        progress.claim(tmp_path, {"channels": None})
