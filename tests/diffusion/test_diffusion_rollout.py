"""Rollouts on miniature pipelines: stock images, independence of the batch, stops, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from backend.config import make_config
from backend.diffusion.backbone import load_backbone
from backend.diffusion.noise import NoiseSource
from backend.diffusion.sampler import Stopped, rollout
from backend.errors import InputError
from backend.policies.base import build_policy
from tests.tiny_pipeline import make_tiny_pipeline

PROMPTS = ["aerial view of mars crater", "old crater on dusty terrain with soft rims", "bright"]
KINDS = {"eps-kl-4": (4, "epsilon", "kl", "leading"), "v-tiny-6": (6, "v_prediction", "tiny", "trailing")}


@pytest.fixture(scope="module", params=list(KINDS))
def folder(request, tmp_path_factory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp(request.param), *KINDS[request.param])


def draw(backbone, seeds, embeds, mode="LORA_UNET", **kwargs):
    policy = build_policy(make_config({"mode": mode, "lora_rank": 2}), backbone)
    return rollout(backbone, policy, embeds, NoiseSource(seeds), (1, 3), num_inference_steps=10, guidance_scale=kwargs.pop("guidance_scale", 7.5), **kwargs)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_deterministic_images_are_those_of_the_stock_pipeline(folder, guidance):
    from diffusers import StableDiffusionPipeline

    backbone = load_backbone(folder)
    noise = NoiseSource([3, 4, 5]).initial(backbone.latent_shape)
    stock = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    expected = stock(PROMPTS, num_inference_steps=10, guidance_scale=guidance, latents=noise, eta=0.0, output_type="pt").images
    ours = draw(backbone, [3, 4, 5], backbone.encode(PROMPTS), deterministic=True, guidance_scale=guidance).images
    assert (ours - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "PNDMScheduler", "DDPMScheduler"])
def test_a_pipeline_of_another_sampler_is_drawn_by_the_same_ddim_steps(tiny_pipeline, tmp_path, name):
    import diffusers

    ddim, other = diffusers.DDIMScheduler.from_pretrained(tiny_pipeline, subfolder="scheduler").config, shutil.copytree(tiny_pipeline, tmp_path / "other")
    fresh = getattr(diffusers, name)(**{key: ddim[key] for key in ("beta_start", "beta_end", "beta_schedule", "timestep_spacing", "steps_offset")})
    fresh.save_pretrained(other / "scheduler")  # as a person saves it: what it does not know is not in its file
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
    images = []
    for path in (tiny_pipeline, other):
        backbone = load_backbone(path)
        images.append(draw(backbone, [3, 4, 5], backbone.encode(PROMPTS), deterministic=True).images)
    assert torch.equal(*images)


@pytest.mark.parametrize("mode", ["LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY"])
def test_an_image_does_not_depend_on_its_batch(folder, mode):
    backbone = load_backbone(folder)
    embeds = backbone.encode(PROMPTS)
    together, alone = draw(backbone, [3, 4, 5], embeds, mode), draw(backbone, [4], embeds[1:2], mode)
    assert (together.images[1] - alone.images[0]).abs().max() < 1e-5
    assert (together.log_probs[:, 1] - alone.log_probs[:, 0]).abs().max() < 1e-5


def test_only_the_window_is_stochastic(folder):
    backbone = load_backbone(folder)
    embeds = backbone.encode(PROMPTS)
    noisy, plain = draw(backbone, [3, 4, 5], embeds), draw(backbone, [3, 4, 5], embeds, deterministic=True)
    assert noisy.path.shape == (11, 3, *backbone.latent_shape)
    assert noisy.timesteps[:, 0].tolist() == noisy.schedule_timesteps[1:4, 0].tolist()
    assert torch.equal(plain.log_probs, torch.zeros(0, 3))
    assert (noisy.images - plain.images).abs().max() > 1e-3
    # Step 0 is deterministic, so the window begins at one and the same latent whatever is drawn later.
    again = rollout(backbone, build_policy(make_config({"eta": 0.1, "lora_rank": 2}), backbone), embeds, NoiseSource([3, 4, 5]), (1, 3), num_inference_steps=10, guidance_scale=7.5)
    assert torch.equal(noisy.path[1], again.path[1])
    assert not torch.equal(noisy.path[2], again.path[2])


def test_everything_recorded_is_float32_and_may_enter_a_graph(folder):
    backbone = load_backbone(folder)
    trajectory = draw(backbone, [3], backbone.encode(PROMPTS[:1]))
    for tensor in (trajectory.path, trajectory.actions, trajectory.means, trajectory.log_probs, trajectory.images):
        assert tensor.dtype == torch.float32
        assert not tensor.is_inference()


def test_a_stop_is_seen_at_every_step(folder):
    backbone, asked = load_backbone(folder), []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 4

    with pytest.raises(Stopped):
        draw(backbone, [3], backbone.encode(PROMPTS[:1]), should_stop=stop)
    assert len(asked) == 4


def test_slices_and_transitions_agree(folder):
    backbone = load_backbone(folder)
    trajectory = draw(backbone, [3, 4, 5], backbone.encode(PROMPTS))
    part = trajectory.slice(torch.tensor([2, 0]))
    assert torch.equal(part.actions[1, 0], trajectory.actions[1, 2])
    assert part.seeds == [5, 3]
    flat = trajectory.transitions(torch.tensor([2, 0]))
    assert flat.image.tolist() == [2, 2, 2, 0, 0, 0]
    assert torch.equal(flat.action[1], trajectory.actions[1, 2])
    assert torch.equal(flat.state[4], trajectory.path[2, 0])


def test_prompts_of_any_length_encode(folder):
    backbone = load_backbone(folder)
    assert backbone.encode(["crater " * 500, ""]).shape == (2, *backbone.null_embedding.shape)
    assert torch.equal(backbone.encode([""])[0], backbone.null_embedding)


def test_half_precision_keeps_latents_in_float32(tiny_pipeline):
    backbone = load_backbone(tiny_pipeline, dtype=torch.bfloat16)
    trajectory = draw(backbone, [3], backbone.encode(PROMPTS[:1]))
    assert backbone.unet.dtype == torch.bfloat16
    assert trajectory.path.dtype == torch.float32
    assert trajectory.images.isfinite().all()


def test_missing_folder_folder_without_pipeline_and_without_weights_are_refused(tiny_pipeline, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_backbone("no/such/model/here")
    with pytest.raises(InputError, match="model_index.json"):
        load_backbone(tmp_path)
    (tmp_path / "model_index.json").write_text((tiny_pipeline / "model_index.json").read_text())
    with pytest.raises(InputError, match="no weights in unet"):
        load_backbone(tmp_path)


def test_a_hub_id_out_of_reach_names_its_remedies_in_whole_words():
    with pytest.raises(InputError) as caught:
        load_backbone("nobody/no-such-model")
    said = str(caught.value)
    assert "is no folder here" in said and "`hf download nobody/no-such-model`" in said and "check the id and your access" in said and "name a folder" in said
    reason = said.split("hub (", 1)[1].split("): go online")[0]
    whole = " ".join(str(caught.value.__cause__).split())
    assert whole == reason or (reason.endswith(" …") and whole.startswith(reason[:-1]))  # cut after a word


def test_a_hub_id_with_half_precision_files_only_is_loaded(tiny_pipeline, monkeypatch):
    from diffusers import StableDiffusionPipeline

    pipe, asked = StableDiffusionPipeline.from_pretrained(tiny_pipeline), []

    def hub(name: str, variant: str | None = None, **kwargs):
        asked.append((name, variant))
        if variant is None:
            raise OSError("no file named diffusion_pytorch_model.safetensors")
        return pipe

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", hub)
    assert load_backbone("someone/half").source == "someone/half"
    assert asked == [("someone/half", None), ("someone/half", "fp16")]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"in_channels": 9}, "takes 9 channels and gives 4, the autoencoder's latents have 4"),  # inpainting
        ({"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}, "more than a text .text_time"),  # SDXL
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj"}, "more than a text .image_proj"),  # Kandinsky 2.2
        ({"num_class_embeds": 10}, "a class or a noise level"),  # the upscaler
        ({"class_embed_type": "timestep"}, "a class or a noise level"),
    ],
)
def test_a_model_that_wants_more_than_text_is_refused_when_it_is_loaded(tiny_pipeline, tmp_path, changed, said):
    from diffusers import UNet2DConditionModel

    other = shutil.copytree(tiny_pipeline, tmp_path / "other")
    config = UNet2DConditionModel.load_config(tiny_pipeline, subfolder="unet")
    UNet2DConditionModel.from_config(config, **changed).save_pretrained(other / "unet")
    with pytest.raises(InputError, match=f"cannot be trained: .*{said}.*1.x or 2.x"):
        load_backbone(other)


def test_a_model_whose_output_no_step_understands_is_refused_when_it_is_loaded(tiny_pipeline, tmp_path):
    other = shutil.copytree(tiny_pipeline, tmp_path / "other")
    path = other / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "flow_prediction"}))
    with pytest.raises(InputError, match="predicts 'flow_prediction', not epsilon"):
        load_backbone(other)


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_reconstruction_is_what_diffusers_autoencoder_gives(tmp_path: Path, kind: str) -> None:
    backbone = load_backbone(make_tiny_pipeline(tmp_path / kind, vae=kind))
    factor = 2 ** (len(backbone.vae.config.block_out_channels) - 1)
    images = torch.rand(5, 3, *(factor * side for side in backbone.latent_shape[1:]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        code = backbone.vae.encode(images * 2 - 1)
        expected = backbone.vae.decode(code.latent_dist.mode() if kind == "kl" else code.latents).sample / 2 + 0.5
    found = backbone.reconstruct(images)
    assert torch.allclose(found, expected.clamp(0, 1), atol=1e-4)
    assert backbone.reconstruct(images[:, :, :8, :8]).shape == images.shape  # at the model's own size
