"""Training of the base model that is interrupted, refused, or out of disk: it goes on exactly, and nothing is taken for another's."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.base_model import decoder, progress, recipe
from backend.base_model.decoder import train_decoder
from backend.base_model.denoiser import Denoiser, Pairs, build_unet, train_denoiser
from backend.base_model.linear_code import build_autoencoder, fit_linear_code
from backend.base_model.recipe import Recipe, assemble, initialisation, linear_code, open_parts
from backend.base_model.text import build_text_encoder, build_tokenizer
from backend.errors import InputError
from backend.reference.captions import VOCABULARY


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


def test_further_training_needs_a_pipeline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="base-model train"):
        open_parts(tmp_path, 1)


def test_a_start_that_cannot_be_trained_further_leaves_the_work_folder_free(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "render", lambda *args: pytest.fail("rendered"))
    code, tokenizer = fit_linear_code(images, channels=4), build_tokenizer(VOCABULARY)
    with initialisation(0):
        start = assemble(Denoiser(build_unet(4), build_text_encoder(tokenizer)), build_autoencoder(code), tokenizer, tmp_path / "start", {})
    for channels, folder, message in ((None, tmp_path / "mistyped", "base-model train"), (3, start, "has 4 already"), (65, start, "give one of 4 to 64")):
        with pytest.raises(InputError, match=message):
            recipe.run_recipe(Recipe(channels=channels), tmp_path / "work", tmp_path / "out", folder)
        assert not (tmp_path / "work").exists()


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
