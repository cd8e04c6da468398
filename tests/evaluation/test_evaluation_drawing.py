"""What an evaluation draws: images by prompt and seed alone, stock DDIM, and a cache that knows all that decides them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.config import TrainConfig
from backend.diffusion.noise import NoiseSource
from backend.errors import InputError
from backend.evaluation import generate
from backend.evaluation.cache import cache_bytes, cached_arrays
from backend.evaluation.protocol import Protocol, protocol_for

PROMPTS = ("aerial view of bowl mars craters on dune fields", "ground view of complex mars craters on smooth plains")


def test_images_depend_on_prompt_and_seed_only(tiny_pipeline):
    config = TrainConfig(base_model=str(tiny_pipeline), num_inference_steps=4, window_start=0, window_size=2)
    many = generate.generate_images([PROMPTS[0]], list(range(20)), config=config, device="cpu")
    one = generate.generate_images([PROMPTS[0]], [17], config=config, device="cpu")
    assert np.abs(many[17].astype(int) - one[0]).max() <= 1  # batched convolutions may round the last bit differently
    with pytest.raises(InputError, match="one of each"):
        generate.generate_images(["a", "b", "c"], [1], config=config, device="cpu")


def test_constant_policy_equals_diffusers_ddim(tiny_pipeline):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    config = TrainConfig(base_model=str(tiny_pipeline), num_inference_steps=5, window_start=0, window_size=2)
    backbone = generate.open_backbone(config, "cpu")
    ours = generate.draw(backbone, generate.ConstantPolicy(config, backbone), [PROMPTS[0]], [3], 5, 4.0)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None, requires_safety_checker=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    latents = NoiseSource([3]).initial(backbone.latent_shape)
    theirs = pipe(PROMPTS[0], num_inference_steps=5, guidance_scale=4.0, latents=latents, output_type="np").images
    assert np.abs(ours[0] - 255 * theirs[0]).max() <= 1.01


def test_warp_one_is_the_stock_schedule_and_others_keep_its_ends(tiny_pipeline):
    backbone = generate.open_backbone(TrainConfig(base_model=str(tiny_pipeline), num_inference_steps=10), "cpu")
    stock = backbone.schedule(10).expand(2)
    same = generate.warped(stock, 1.0, backbone.alphas_cumprod)
    assert torch.allclose(same.timesteps, stock.timesteps, rtol=0, atol=1e-9)
    bent = generate.warped(stock, 2.0, backbone.alphas_cumprod)
    assert torch.equal(bent.timesteps[[0, -1]], stock.timesteps[[0, -1]])
    assert (bent.timesteps.diff(dim=0) < 0).all()
    assert (bent.timesteps[1:-1] > stock.timesteps[1:-1]).all()
    assert torch.equal(bent.alphas_prev[:-1], bent.alphas[1:])


def test_digest_sees_every_weight(tiny_pipeline, tmp_path):
    config = TrainConfig(base_model=str(tiny_pipeline))
    copy = shutil.copytree(tiny_pipeline, tmp_path / "copy")
    before = generate.weights_digest(generate.open_backbone(config, "cpu"))
    assert before == generate.weights_digest(generate.open_backbone(config.model_copy(update={"base_model": str(copy)}), "cpu"))
    file = next((copy / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})
    assert before != generate.weights_digest(generate.open_backbone(config.model_copy(update={"base_model": str(copy)}), "cpu"))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("scheduler/scheduler_config.json", '"timestep_spacing": "leading"', '"timestep_spacing": "trailing"'),
        ("vae/config.json", '"scaling_factor": 0.18215', '"scaling_factor": 0.5'),
        ("tokenizer/tokenizer_config.json", '"model_max_length": 16', '"model_max_length": 6'),
    ],
)
def test_base_images_are_drawn_anew_where_anything_but_the_weights_differs(tiny_pipeline, tmp_path, file, old, new):
    config, protocol = TrainConfig(base_model=str(tiny_pipeline), num_inference_steps=4, window_start=0, window_size=2), Protocol(PROMPTS, 4, 4, 7.5)
    copy = shutil.copytree(tiny_pipeline, tmp_path / "copy")
    stock, same = (generate.open_backbone(config.model_copy(update={"base_model": str(folder)}), "cpu") for folder in (tiny_pipeline, copy))
    assert generate.settings_digest(stock, PROMPTS) == generate.settings_digest(same, PROMPTS)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    changed, digest = generate.open_backbone(config.model_copy(update={"base_model": str(copy)}), "cpu"), generate.weights_digest(stock)
    assert digest == generate.weights_digest(changed)
    assert not np.array_equal(*(generate.base_images(config, protocol, backbone, digest) for backbone in (stock, changed)))


def test_protocol_pairs_prompts_and_seeds_and_its_digest_sees_all(tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    protocol = protocol_for(TrainConfig(test_prompts=str(tmp_path / "p.txt")), 5)
    assert protocol.captions == [PROMPTS[0], PROMPTS[1]] * 2 + [PROMPTS[0]]
    assert len(set(protocol.seeds)) == 5
    variants = [protocol, Protocol(PROMPTS, 6, 10, 7.5), Protocol(PROMPTS, 5, 11, 7.5), Protocol(PROMPTS, 5, 10, 7.0), Protocol(PROMPTS[:1], 5, 10, 7.5)]
    assert len({p.digest for p in variants}) == 5


def test_cache_survives_a_torn_file(cache):
    built = []

    def build() -> dict[str, np.ndarray]:
        built.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert cached_arrays("probe", {"a": 1}, build)["x"].tolist() == [0, 1, 2]
    assert len(built) == 1
    next(cache.glob("probe_*.npz")).write_bytes(b"torn")
    assert cached_arrays("probe", {"a": 1}, build)["x"].tolist() == [0, 1, 2]
    assert cached_arrays("probe", {"a": 2}, build)["x"].tolist() == [0, 1, 2]
    assert len(built) == 3


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path, monkeypatch):
    cache = tmp_path
    monkeypatch.setenv("CRATER_CACHE", str(cache))

    def kept() -> set[int]:
        return {int(np.load(path)["x"][0]) for path in cache.glob("probe_*.npz")}

    def use(number: int, at: int) -> None:
        before = set(cache.glob("probe_*.npz"))
        cached_arrays("probe", {"a": number}, lambda: {"x": np.full(1000, number)})
        for path in set(cache.glob("probe_*.npz")) - before:
            os.utime(path, (at, at))

    monkeypatch.setenv("CRATER_CACHE_GIB", str(20_000 / 2**30))  # two of 8 kB fit
    use(1, 100)
    foreign = cache / "mine.npz"
    np.savez(foreign, x=np.zeros(1000))
    use(2, 200)
    use(1, 300)  # read, so that it is the newest
    use(3, 400)
    assert kept() == {1, 3} and foreign.is_file()
    monkeypatch.setenv("CRATER_CACHE_GIB", str(10 / 2**30))
    use(4, 500)
    assert kept() == {4}, "what was just built stays, however large"


def test_the_size_of_the_cache_is_less_on_a_public_demo_and_can_be_set():
    assert [cache_bytes(e) / 2**30 for e in ({}, {"SPACE_ID": "me/lab"}, {"CRATER_PUBLIC_DEMO": "1"}, {"SPACE_ID": "me/lab", "CRATER_CACHE_GIB": "2.5"})] == [4, 1, 1, 2.5]
    for bad in ("0", "many", "inf"):
        with pytest.raises(InputError, match="CRATER_CACHE_GIB"):
            cache_bytes({"CRATER_CACHE_GIB": bad})
