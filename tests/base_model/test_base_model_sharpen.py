"""The decoder's adversarial finish: what it may change, what it must not, and what the shipped decoder owes to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.base_model import sharpen
from backend.base_model.data import SIZE
from backend.base_model.linear_code import build_autoencoder, fit_linear_code
from backend.base_model.measure import to_tensor
from backend.base_model.recipe import MODEL, initialisation
from backend.base_model.sharpen import Discriminator, draw_latents, perceptual_distance, random_latents, sharpen_decoder
from backend.features.efficientnet_lite import lite0
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
    """A discriminator that is sure already: pictures with fine contrast are renders."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x - F.avg_pool2d(x, 5, 1, 2)).abs()


@pytest.mark.parametrize(("weight", "least", "most"), [(0.0, 0.0, 1.1), (2.0, 1.3, 100.0)])
def test_decoder_follows_the_discriminator(images, tmp_path, monkeypatch, weight: float, least: float, most: float) -> None:
    monkeypatch.setattr(sharpen, "Discriminator", Contrast)
    monkeypatch.setattr(sharpen, "ADVERSARIAL_WEIGHT", weight)
    monkeypatch.setattr(sharpen, "FINE_WEIGHT", 0.0)  # only the means of 4 pixels are held
    monkeypatch.setattr(sharpen, "PERCEPTUAL_WEIGHT", 0.0)
    flat = np.full((2, 80, 80, 3), 128, np.uint8)
    model = autoencoder(images)
    x = to_tensor(flat) * 2 - 1

    def contrast_and_error() -> tuple[float, float]:
        with torch.inference_mode():
            decoded = model.decode(model.encode(x).latents).sample
            contrast = Contrast()(decoded)
        return contrast.mean().item(), float((F.avg_pool2d(decoded, 4) - F.avg_pool2d(x, 4)).abs().mean())

    before, error = contrast_and_error()
    sharpen_decoder(model, flat, model.encoder(x).detach(), 20, tmp_path / "sharpen.pt", 0, batch=4, learning_rate=3e-4, log=lambda row: None)
    after, later = contrast_and_error()
    assert least < after / before < most
    assert weight or later < error


def test_perceptual_distance_is_the_formula_at_the_size_that_crops_have() -> None:
    """Zhang et al. 2018, equation 1, written out, on the blocks that the reward LPIPS reads; 72 pixels are not enlarged to 128."""
    trunk, generator = lite0().trunk, torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 72, 72, generator=generator) * 2 - 1 for _ in range(2))
    expected = 0.0
    for x, y in zip(trunk(a, (2, 4, 10)), trunk(b, (2, 4, 10)), strict=True):
        assert x.shape[-1] in (18, 9, 5)  # strides 4, 8, 16
        expected += (F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).sum(1).mean()
    assert float(perceptual_distance(trunk, a, b)) == pytest.approx(float(expected), rel=1e-5)
    assert float(perceptual_distance(trunk, a, a)) == 0


def test_decoder_follows_what_a_network_sees(tmp_path, monkeypatch) -> None:
    """The shipped decoder, trained on four renders for a dozen steps with and without the perceptual share."""
    from diffusers import AutoencoderTiny

    rng = np.random.default_rng(3)
    renders = render_batch([sample_parameters(rng) for _ in range(4)], [1, 2, 3, 4], size=80)
    x, trunk, unlike = to_tensor(renders) * 2 - 1, lite0().trunk, {}
    monkeypatch.setattr(sharpen, "ADVERSARIAL_WEIGHT", 0.0)
    for weight in (0.0, 2.0):
        monkeypatch.setattr(sharpen, "PERCEPTUAL_WEIGHT", weight)
        model = AutoencoderTiny.from_pretrained(MODEL / "vae", dtype=torch.float32, local_files_only=True)
        sharpen_decoder(model, renders, model.encoder(x).detach(), 12, tmp_path / f"{weight}.pt", 0, batch=4, learning_rate=3e-4, log=lambda row: None)
        with torch.inference_mode():
            unlike[weight] = float(perceptual_distance(trunk, model.decode(model.encode(x).latents).sample, x))
    assert unlike[2.0] < 0.95 * unlike[0.0], unlike


def test_discriminator_tells_blur_from_its_input() -> None:
    with initialisation(0):
        critic = Discriminator()
    assert critic(torch.zeros(2, 3, 72, 72)).shape == (2, 1, 18, 18)
    sharp = torch.rand(4, 3, 72, 72) * 0.1
    blurred = F.avg_pool2d(sharp, 3, 1, 1)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3)
    for _ in range(30):
        loss = F.relu(1 - critic(sharp)).mean() + F.relu(1 + critic(blurred)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert critic(sharp).mean() > 0 > critic(blurred).mean()


def test_crops_of_latents_are_crops() -> None:
    drawn = torch.arange(2 * 1 * 12 * 12, dtype=torch.float32).reshape(2, 1, 12, 12)
    crops = random_latents(drawn, 50, np.random.default_rng(0))
    assert crops.shape == (50, 1, 9, 9)
    corners = crops[:, 0, 0, 0].long()
    assert (corners % 12 <= 3).all() and len(set(corners.tolist())) > 10
    assert torch.equal(crops[:, 0] - crops[:, :1, 0, 0][..., None], (drawn[0, 0, :9, :9] - drawn[0, 0, 0, 0]).expand(50, 9, 9))


def test_latents_are_those_of_the_pipeline_unscaled() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)
    latents = draw_latents(pipeline, ["aerial view of mars craters"] * 2, 3, (SIZE, SIZE))
    picture = pipeline("aerial view of mars craters", num_inference_steps=10, guidance_scale=7.5, generator=torch.Generator().manual_seed(3_000_001), output_type="np").images[0]
    with torch.inference_mode():
        decoded = (pipeline.vae.decode(torch.from_numpy(latents[1:])).sample[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).numpy()
    assert latents.shape == (2, pipeline.unet.config.in_channels, 16, 16) and np.abs(decoded - picture).max() < 1e-3
