"""The adversarial finish: what it may change, what it must not, and what it trains on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.base_model import sharpen
from backend.base_model.critic import Captions, Discriminator, Sight, hinge, mean_score, perceptual_distance
from backend.base_model.data import SIZE
from backend.base_model.denoiser import Denoiser, Pairs, build_scheduler
from backend.base_model.measure import to_tensor
from backend.base_model.recipe import MODEL, initialisation, open_parts
from backend.base_model.sharpen import _content, sharpen_model
from backend.base_model.text import tokenise
from backend.base_model.unfinished import COARSE, FROM, SAMPLERS, draw_unfinished, embed, finish, last_steps
from backend.reference.captions import ATTRIBUTES
from backend.reference.renderer import render_batch, sample_parameters

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CAPTION = "aerial view of mars craters"


@pytest.fixture(scope="module")
def renders() -> np.ndarray:
    rng = np.random.default_rng(3)
    return render_batch([sample_parameters(rng) for _ in range(4)], [1, 2, 3, 4], size=80)


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)
    return draw_unfinished(pipeline, [CAPTION] * 4, 3, (80, 80), lambda row: None)


Train = Callable[..., tuple[torch.nn.Module, Denoiser]]


@pytest.fixture
def train(renders: np.ndarray, drawn: dict[str, np.ndarray], tmp_path: Path) -> Train:
    """The shipped model after a few steps."""

    def go(
        steps: int, finish_steps: int, images: np.ndarray = renders, *, name: str = "sharpen.pt", drawn: dict[str, np.ndarray] = drawn, **numbers: float
    ) -> tuple[torch.nn.Module, Denoiser]:
        vae, denoiser, tokenizer = open_parts(MODEL, 0)
        pairs = Pairs(images, np.ones(len(images), bool), lambda i, rng: CAPTION)
        state = torch.random.get_rng_state()
        sharpen_model(vae, denoiser, tokenizer, pairs, drawn, steps, finish_steps, tmp_path / name, 0, **{"batch": 4, "log": lambda row: None} | numbers)
        assert torch.equal(torch.random.get_rng_state(), state)
        return vae, denoiser

    return go


def test_encoders_are_left_alone(train: Train) -> None:
    before_vae, before, _ = open_parts(MODEL, 0)
    vae, denoiser = train(1, 1)
    changed = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before_vae.state_dict()[name])}
    changed |= {name.split(".")[0] for name, value in denoiser.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == {"decoder", "unet"}


def test_interrupted_it_goes_on_exactly(train: Train) -> None:
    whole = train(2, 2, name="whole.pt")
    train(1, 0, name="parts.pt")
    train(2, 1, name="parts.pt")
    parts = train(2, 2, name="parts.pt")
    for first, second in zip(whole, parts, strict=True):
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_decoder_learns_from_the_latents_that_are_kept(train: Train, drawn: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """The denoiser is not asked again for what it drew."""
    monkeypatch.setattr(sharpen, "finish", lambda *_: pytest.fail("the denoiser ran"))
    changed = drawn | {"finished": drawn["finished"] + 1.0}
    first, second = train(1, 0, name="a.pt"), train(1, 0, name="b.pt", drawn=changed)
    assert not all(torch.equal(value, second[0].state_dict()[name]) for name, value in first[0].state_dict().items())


class Contrast(torch.nn.Module):
    """A discriminator that is sure already: what varies from place to place is a render."""

    def __init__(self, channels: list[int], words: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, maps: list[torch.Tensor], captions: torch.Tensor) -> list[torch.Tensor]:
        return [self.scale * (x - x.mean((2, 3), keepdim=True)).abs() for x in maps]


def contrast(vae: torch.nn.Module, denoiser: Denoiser, tokenizer: CLIPTokenizer, drawn: dict[str, np.ndarray]) -> float:
    """Mean difference of neighbouring pixels in the finished pictures."""
    scheduler, tokens = last_steps(build_scheduler(), SAMPLERS[1]), torch.from_numpy(drawn["tokens"][1])
    with torch.inference_mode():
        text, null = (embed(denoiser.text_encoder, t) for t in (tokens, tokenise(tokenizer, [""])))
        latents = finish(denoiser.unet, scheduler, torch.from_numpy(drawn["latents"][1]), text, null)
        return float(vae.decode(latents / vae.config.scaling_factor).sample.diff(dim=3).abs().mean())


def test_decoder_and_denoiser_follow_the_discriminator(train: Train, drawn: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measured with the other as it was; without the discriminator's share the denoiser has the content alone."""
    monkeypatch.setattr(sharpen, "Discriminator", Contrast)
    monkeypatch.setattr(sharpen, "DENOISER_SHARE", 0.2)  # four steps are enough then
    plain_vae, plain, tokenizer = open_parts(MODEL, 0)
    found = {}
    for weight in (0.0, 4.0):
        monkeypatch.setattr(sharpen, "ADVERSARIAL_WEIGHT", weight)
        vae, denoiser = train(12, 4, name=f"{weight}.pt")
        found[weight] = contrast(vae, plain, tokenizer, drawn), contrast(plain_vae, denoiser, tokenizer, drawn)
    assert found[4.0][0] > 1.05 * found[0.0][0], found
    assert found[4.0][1] > 1.01 * found[0.0][1], found


class Even(torch.nn.Module):
    """A teacher whose captions all ask for even pictures."""

    def __init__(self, sight: Sight, renders: torch.Tensor, words: torch.Tensor) -> None:
        super().__init__()
        assert len(renders) == len(words) == 8
        self.started = 0

    def start_from(self, maps: list[torch.Tensor], words: torch.Tensor) -> None:
        assert len(maps[0]) == len(words) == 4  # what both samplers drew
        self.started += 1

    def forward(self, maps: list[torch.Tensor], words: torch.Tensor) -> dict[str, torch.Tensor]:
        assert self.started == 1
        assert words.shape == (3, len(ATTRIBUTES)) and float(words[0, 0]) == 0 and words[0, 1:].isnan().all()  # CAPTION says the view alone
        return {"unlike": maps[0].std((2, 3)).mean()}


def test_denoiser_follows_the_teacher(train: Train, drawn: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpen, "Teacher", Even)
    monkeypatch.setattr(sharpen, "DENOISER_SHARE", 0.2)
    monkeypatch.setattr(sharpen, "ADVERSARIAL_WEIGHT", 0.0)
    vae, _, tokenizer = open_parts(MODEL, 0)
    found = {}
    for weight in (0.0, 3.0):
        monkeypatch.setitem(sharpen.TAUGHT, "unlike", weight)
        _, denoiser = train(0, 4, name=f"{weight}.pt")
        found[weight] = contrast(vae, denoiser, tokenizer, drawn)
    assert found[3.0] < 0.99 * found[0.0], found


def test_decoder_follows_what_a_network_sees(train: Train, renders: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    x, unlike = to_tensor(renders) * 2 - 1, {}
    sight = Sight(x)
    monkeypatch.setattr(sharpen, "ADVERSARIAL_WEIGHT", 0.0)
    for weight in (0.0, 2.0):
        monkeypatch.setattr(sharpen, "PERCEPTUAL_WEIGHT", weight)
        vae, _ = train(12, 0, name=f"{weight}.pt", learning_rate=3e-4)
        with torch.inference_mode():
            unlike[weight] = float(perceptual_distance(sight(vae.decode(vae.encode(x).latents).sample), sight(x)))
    assert unlike[2.0] < 0.95 * unlike[0.0], unlike


def test_only_the_coarse_picture_of_drawn_latents_has_to_stay() -> None:
    """A checkerboard of single pixels is no error where the denoiser drew, and one where a render is decoded."""
    flat, board = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 1.0
    board -= board.mean()
    coarse = torch.zeros(1, 3, 32 // COARSE, 32 // COARSE)
    assert float(_content(torch.cat([flat, board]), flat, coarse)) == pytest.approx(0, abs=1e-7)
    assert float(_content(torch.cat([board, flat]), flat, coarse)) > 0.2
    assert float(_content(torch.cat([flat, flat + 0.5]), flat, coarse)) == pytest.approx(0.5)


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


def test_discriminator_tells_blurred_renders_from_renders() -> None:
    """On pictures that it was not shown."""
    rng = np.random.default_rng(4)
    sharp = to_tensor(render_batch([sample_parameters(rng) for _ in range(16)], list(range(16)), size=72)) * 2 - 1
    blurred = F.avg_pool2d(sharp, 3, 1, 1, count_include_pad=False)
    sight = Sight(sharp[:8])
    with initialisation(0):
        critic = Discriminator([mean.shape[1] for mean in sight.mean], 2)
    real, fake = ([m.detach() for m in sight.standardised(sight(x))] for x in (sharp, blurred))
    optimiser, losses, alike = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.95)), [], torch.zeros(8, 2)  # one caption for all
    for _ in range(40):
        loss = hinge(critic([m[:8] for m in real], alike), critic([m[:8] for m in fake], alike))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with torch.inference_mode():
        scores = [critic([m[8:] for m in kind], alike) for kind in (real, fake)]
    assert [s.shape[1:] for s in scores[0]] == [(1, 18, 18), (1, 9, 9), (1, 5, 5)]
    assert mean_score(scores[0]) > mean_score(scores[1]) + 0.5


def test_discriminator_that_is_given_captions_tells_which_fits() -> None:
    """Dark and light pictures that it was not shown, each beside its own caption and beside the other."""
    _, denoiser, tokenizer = open_parts(MODEL, 0)
    generator, light = torch.Generator().manual_seed(0), torch.arange(16) % 2
    pictures = torch.rand(16, 3, 64, 64, generator=generator) * 0.4 + light[:, None, None, None] - 0.7
    tokens = tokenise(tokenizer, [("aerial view of a fresh crater", "ground view of an old crater")[i] for i in light])
    sight, captions = Sight(pictures[:8]), Captions(denoiser.text_encoder, tokens[:8])
    assert captions(tokens).shape == (16, captions.length) and float(captions(tokens[:8]).norm(dim=1).mean()) < 0.2 * captions.length
    with initialisation(0):
        critic = Discriminator([mean.shape[1] for mean in sight.mean], captions.length)
    maps, own, other = [m.detach() for m in sight.standardised(sight(pictures))], captions(tokens), captions(tokens.roll(1, 0))
    optimiser = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.95))
    for _ in range(40):
        loss = hinge(critic([m[:8] for m in maps], own[:8]), critic([m[:8] for m in maps], other[:8]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        fits, fits_not = (mean_score(critic([m[8:] for m in maps], c[8:])) for c in (own, other))
    assert fits > fits_not + 0.5, (fits, fits_not)


def test_caption_of_no_words_is_no_error() -> None:
    _, denoiser, tokenizer = open_parts(MODEL, 0)
    rows = Captions(denoiser.text_encoder, tokenise(tokenizer, [CAPTION, "ground view of craters"]))(tokenise(tokenizer, ["", CAPTION]))
    assert torch.isfinite(rows).all()


@pytest.mark.parametrize("sampler", range(len(SAMPLERS)))
def test_unfinished_pictures_finished_are_those_of_the_pipeline(sampler: int) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)
    rows: list[dict] = []
    drawn = draw_unfinished(pipeline, [CAPTION] * 4, 3, (SIZE, SIZE), rows.append)
    assert [(row["stage"], row["images"]) for row in rows] == [("draw", 2), ("draw", 4)]
    assert drawn["latents"].shape == (2, 2, pipeline.unet.config.in_channels, 16, 16) and drawn["coarse"].shape == (2, 2, 3, SIZE // COARSE, SIZE // COARSE)
    steps, generator = SAMPLERS[sampler], torch.Generator().manual_seed(3_000_001 + 2 * sampler)
    whole = pipeline(CAPTION, num_inference_steps=steps, guidance_scale=7.5, generator=generator, output_type="latent").images
    scheduler = last_steps(pipeline.scheduler, steps)
    assert FROM in scheduler.timesteps and set(last_steps(build_scheduler(), steps).timesteps.tolist()) == set(scheduler.timesteps.tolist())
    text, null = (embed(pipeline.text_encoder, tokenise(pipeline.tokenizer, [words])) for words in (CAPTION, ""))
    with torch.inference_mode():
        latents = finish(pipeline.unet, scheduler, torch.from_numpy(drawn["latents"][sampler, 1:]), text, null)
        picture = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    assert torch.allclose(latents, whole, atol=1e-3)
    assert torch.allclose(latents / pipeline.vae.config.scaling_factor, torch.from_numpy(drawn["finished"][sampler, 1:]), atol=1e-3)
    assert torch.allclose(F.avg_pool2d(picture, COARSE), torch.from_numpy(drawn["coarse"][sampler, 1:]), atol=1e-3)
