"""Mixtures of checkpoints against averages of what the adapters add to their layers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.errors import InputError
from backend.policies.lora import WEIGHTS_FILE
from backend.policies.mixture import best_factors, mix_checkpoints


def adapter(folder, seed: int, rank: int = 3):
    generator = torch.Generator().manual_seed(seed)
    tensors = {"unet.x.lora_A.weight": torch.randn(rank, 4, 3, 3, generator=generator), "unet.x.lora_B.weight": torch.randn(7, rank, 1, 1, generator=generator)}
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return tensors["unet.x.lora_B.weight"].flatten(1) @ tensors["unet.x.lora_A.weight"].flatten(1)


def update_of(folder):
    tensors = load_file(folder / WEIGHTS_FILE)
    return tensors["unet.x.lora_B.weight"].flatten(1) @ tensors["unet.x.lora_A.weight"].flatten(1)


def test_mixture_is_the_best_approximation_of_the_averaged_update(tmp_path):
    first, second = adapter(tmp_path / "a", 0), adapter(tmp_path / "b", 1)
    mix_checkpoints([tmp_path / "a", tmp_path / "b"], tmp_path / "m", [3, 1])
    average = 0.75 * first + 0.25 * second
    u, s, v = torch.linalg.svd(average.double(), full_matrices=False)
    assert torch.allclose(update_of(tmp_path / "m").double(), u[:, :3] * s[:3] @ v[:3], atol=1e-5)


def test_mixture_with_itself_changes_nothing(tmp_path):
    alone = adapter(tmp_path / "a", 0)
    mix_checkpoints([tmp_path / "a"] * 3, tmp_path / "m")
    assert torch.allclose(update_of(tmp_path / "m"), alone, atol=1e-5)


def test_factors_pad_where_the_matrix_is_smaller_than_the_rank():
    b, a = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.eye(5, 3, dtype=torch.float64)
    new_a, new_b = best_factors(b, a, 6)
    assert new_a.shape == (6, 3)
    assert torch.allclose(new_b @ new_a, b @ a)


@pytest.mark.parametrize("mode", ["LORA_UNET", "DIVERSITY_POLICY"])
def test_a_mixed_policy_loads(bench, mode, tmp_path):
    b = bench(mode=mode)
    b.agent.save_policy(tmp_path / "a", use_ema=False)
    b.episode(0)
    b.agent.save_policy(tmp_path / "b", use_ema=False)
    mix_checkpoints([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    images = {}
    for name in ("a", "m", "b"):
        b.agent.load_policy(tmp_path / name)
        images[name] = b.rollout(deterministic=True).images
    assert (images["b"] - images["a"]).abs().max() > 1e-6
    assert (images["m"] - (images["a"] + images["b"]) / 2).abs().max() < 0.5 * (images["b"] - images["a"]).abs().max()


def test_refusals(tmp_path):
    adapter(tmp_path / "a", 0)
    adapter(tmp_path / "b", 1, rank=2)
    cases = [([], None, "no checkpoints"), (["a"], [-1], "weights"), (["a", "b"], None, "ranks"), (["a", "x"], None, "has no"), (["x"], None, "holds no saved")]
    cases = [([], None, "no checkpoints"), (["a"], [-1], "weights"), (["a", "b"], None, "ranks"), (["a", "x"], None, "has no"), (["x"], None, "holds no saved")]
    for folders, weights, message in cases:
        with pytest.raises(InputError, match=message):
            mix_checkpoints([tmp_path / f for f in folders], tmp_path / "m", weights)


def test_adapters_of_another_alpha_are_refused(bench, tmp_path):
    """The same weights add alpha / rank as much: their plain average would be neither policy's."""
    for alpha in (16.0, 32.0):
        bench(mode="LORA_UNET", lora_alpha=alpha).agent.save_policy(tmp_path / f"{alpha:g}", use_ema=False)
    with pytest.raises(InputError, match=r"lora_alpha 16.0 and 32.0"):
        mix_checkpoints([tmp_path / "16", tmp_path / "32"], tmp_path / "m")
    mix_checkpoints([tmp_path / "16", tmp_path / "16"], tmp_path / "m")
