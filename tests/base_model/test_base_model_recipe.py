"""The recipe's parts against independent computations, and its resumption bit for bit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.base_model import decoder, recipe
from backend.base_model.batches import MOST_WORKERS, batches, workers_for
from backend.base_model.card import loss_figure, training_rows
from backend.base_model.data import augment, load_dataset, render_dataset
from backend.base_model.denoiser import Denoiser, build_unet, learning_rate_factor, with_pooled_caption
from backend.base_model.linear_code import PATCH, build_autoencoder, encode, fit_linear_code, read_code, to_patches
from backend.base_model.recipe import Log, Recipe, assemble, initialisation, open_parts
from backend.base_model.text import build_text_encoder, build_tokenizer, with_unknown_words
from backend.base_model.widen import widen, widen_code
from backend.errors import InputError
from backend.reference.captions import VOCABULARY


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


@pytest.mark.usefixtures("narrow")
def test_the_whole_recipe_goes_on_and_its_folder_is_not_taken_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.base_model.data.SHARD", 8)
    monkeypatch.setattr(recipe, "DRAWN", 2)
    plan = Recipe(images=8, decoder_steps=1, denoiser_steps=2, sharpen_steps=1, finish_steps=1, batch=2, channels=4)
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
        folder = assemble(Denoiser(build_unet(4), build_text_encoder(tokenizer)), build_autoencoder(code), tokenizer, tmp_path / "model", {"seed": 0})
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
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
    for stages in (("denoiser",), ("decoder", "denoiser", "sharpen", "finish")):
        rows = [{"stage": "render", "images": 5, "seconds": 1.0}, *({"stage": stage, "step": step, "loss": 1 / step} for stage in stages for step in (1, 2))]
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
        loss_figure(training_rows(tmp_path / "log.jsonl"), tmp_path / "losses.png")
        widths.append(Image.open(tmp_path / "losses.png").width)
    assert widths[1] == pytest.approx(4 * widths[0], abs=3)
