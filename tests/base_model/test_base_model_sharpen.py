"""The decoder's adversarial finish: what it may change, what it must not, and what the shipped decoder owes to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.base_model import sharpen
from backend.base_model.critic import Discriminator, Sight, hinge, mean_score, perceptual_distance
from backend.base_model.data import SIZE
from backend.base_model.linear_code import build_autoencoder, fit_linear_code
from backend.base_model.measure import to_tensor
from backend.base_model.recipe import MODEL, initialisation
from backend.base_model.sharpen import _content, draw_latents, sharpen_decoder
from backend.reference.renderer import render_batch, sample_parameters


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(6, 80, 80, 3), dtype=np.uint8)


def autoencoder(images: np.ndarray) -> torch.nn.Module:
    with initialisation(0):
        return build_autoencoder(fit_linear_code(images, channels=4))


def test_encoder_is_left_alone_and_random_state_too(images: np.ndarray, tmp_path: Path) -> None:
    model = autoencoder(images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    sharpen_decoder(model, images, torch.zeros(3, 4, 10, 10), 1, tmp_path / "sharpen.pt", 0, batch=4, log=lambda row: None)
    assert torch.equal(torch.random.get_rng_state(), state)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder"}


class Contrast(torch.nn.Module):
    """A discriminator that is sure already: what varies from place to place is a render."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.scale * (x - x.mean((2, 3), keepdim=True)).abs() for x in maps]


def test_decoder_follows_the_discriminator(images, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sharpen, "Discriminator", Contrast)
    monkeypatch.setattr(sharpen, "FINE_WEIGHT", 0.0)  # only means are held
    monkeypatch.setattr(sharpen, "PERCEPTUAL_WEIGHT", 0.0)
    flat, contrast = np.full((2, 80, 80, 3), 128, np.uint8), {}
    x = to_tensor(flat) * 2 - 1
    for weight in (0.0, 4.0):
        monkeypatch.setattr(sharpen, "ADVERSARIAL_WEIGHT", weight)
        model = autoencoder(images)
        sharpen_decoder(model, flat, model.encoder(x).detach(), 20, tmp_path / f"{weight}.pt", 0, batch=4, learning_rate=3e-4, log=lambda row: None)
        with torch.inference_mode():
            contrast[weight] = float(model.decode(model.encode(x).latents).sample.std((2, 3)).mean())
    assert contrast[4.0] > 1.5 * contrast[0.0], contrast


def test_only_the_coarse_picture_of_drawn_latents_has_to_stay() -> None:
    """A checkerboard of single pixels is no error where the denoiser drew, and one where a render is decoded."""
    target = torch.zeros(2, 3, 32, 32)
    board = torch.zeros(2, 3, 32, 32)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 1.0
    board -= board.mean()
    assert float(_content(torch.cat([target[:1], board[1:]]), target, 1)) == pytest.approx(0, abs=1e-7)
    assert float(_content(torch.cat([board[:1], target[1:]]), target, 1)) > 0.2
    assert float(_content(torch.cat([target[:1], target[1:] + 0.5]), target, 1)) == pytest.approx(0.5)


def test_perceptual_distance_is_the_formula_at_the_size_that_pictures_have() -> None:
    """Zhang et al. 2018, equation 1, written out; 72 pixels are not enlarged to 128."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 72, 72, generator=generator) * 2 - 1 for _ in range(2))
    sight, expected = Sight(a), 0.0
    for x, y, side in zip(sight(a), sight(b), (18, 9, 5), strict=True):  # strides 4, 8, 16
        assert x.shape[-1] == side
        expected += (F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).sum(1).mean()
    assert float(perceptual_distance(sight(a), sight(b))) == pytest.approx(float(expected), rel=1e-5)
    assert float(perceptual_distance(sight(a), sight(a))) == 0


def test_decoder_follows_what_a_network_sees(tmp_path, monkeypatch) -> None:
    """The shipped decoder, trained on four renders for a dozen steps with and without the perceptual share."""
    from diffusers import AutoencoderTiny

    rng = np.random.default_rng(3)
    renders = render_batch([sample_parameters(rng) for _ in range(4)], [1, 2, 3, 4], size=80)
    x, unlike = to_tensor(renders) * 2 - 1, {}
    sight = Sight(x)
    monkeypatch.setattr(sharpen, "ADVERSARIAL_WEIGHT", 0.0)
    monkeypatch.setattr(sharpen, "KNOWN", 1)  # nothing but renders
    for weight in (0.0, 2.0):
        monkeypatch.setattr(sharpen, "PERCEPTUAL_WEIGHT", weight)
        model = AutoencoderTiny.from_pretrained(MODEL / "vae", dtype=torch.float32, local_files_only=True)
        sharpen_decoder(model, renders, model.encoder(x).detach(), 12, tmp_path / f"{weight}.pt", 0, batch=4, learning_rate=3e-4, log=lambda row: None)
        with torch.inference_mode():
            unlike[weight] = float(perceptual_distance(sight(model.decode(model.encode(x).latents).sample), sight(x)))
    assert unlike[2.0] < 0.95 * unlike[0.0], unlike


def test_discriminator_tells_blurred_renders_from_renders() -> None:
    """On pictures that it was not shown."""
    rng = np.random.default_rng(4)
    renders = to_tensor(render_batch([sample_parameters(rng) for _ in range(16)], list(range(16)), size=72)) * 2 - 1
    blurred = F.avg_pool2d(renders, 3, 1, 1, count_include_pad=False)
    sight = Sight(renders[:8])
    with initialisation(0):
        critic = Discriminator([mean.shape[1] for mean in sight.mean])
    real, fake = ([m.detach() for m in sight.standardised(sight(x))] for x in (renders, blurred))
    optimiser = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.95))
    losses = []
    for _ in range(40):
        loss = hinge(critic([m[:8] for m in real]), critic([m[:8] for m in fake]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with torch.inference_mode():
        scores = [critic([m[8:] for m in kind]) for kind in (real, fake)]
    assert [s.shape[1:] for s in scores[0]] == [(1, 18, 18), (1, 9, 9), (1, 5, 5)]
    assert mean_score(scores[0]) > mean_score(scores[1]) + 0.5


def test_latents_are_those_of_the_pipeline_unscaled() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)
    latents = draw_latents(pipeline, ["aerial view of mars craters"] * 2, 3, (SIZE, SIZE))
    picture = pipeline("aerial view of mars craters", num_inference_steps=10, guidance_scale=7.5, generator=torch.Generator().manual_seed(3_000_001), output_type="np").images[0]
    with torch.inference_mode():
        decoded = (pipeline.vae.decode(torch.from_numpy(latents[1:])).sample[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy()
    assert latents.shape == (2, pipeline.unet.config.in_channels, 16, 16) and np.abs(decoded - picture).max() < 1e-3
