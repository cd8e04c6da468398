"""`base-model average`: the mean of pipelines' weights, and the record of where they came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from backend.base_model.average import average
from backend.base_model.card import renders_seen, trainings, write_card
from backend.base_model.denoiser import Denoiser, build_unet
from backend.base_model.linear_code import build_autoencoder, fit_linear_code
from backend.base_model.recipe import assemble, training_record
from backend.base_model.text import build_text_encoder, build_tokenizer
from backend.cli.app import main
from backend.errors import InputError

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def pair(images: np.ndarray, tmp_path: Path) -> list[Path]:
    """Two small pipelines with the same latents and words."""
    code, tokenizer, first = fit_linear_code(images, 4), build_tokenizer(["a", "crater"]), {"images": 8, "seed": 1}
    folders = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        denoiser = Denoiser(build_unet(4), build_text_encoder(tokenizer))
        folders.append(assemble(denoiser, build_autoencoder(code), tokenizer, tmp_path / f"model_{seed}", {"images": 4, "seed": seed, "started_from": first}))
    return folders


def test_every_weight_is_the_mean_and_the_record_names_both(pair: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["base-model", "average", *map(str, pair), "--out", str(tmp_path / "mean")])
    assert not stopped.value.code
    a, b, mean = (load_file(folder / UNET) for folder in (*pair, tmp_path / "mean"))
    assert all(torch.equal(mean[name], ((a[name].double() + b[name].double()) / 2).half()) for name in mean)
    assert any(not torch.equal(mean[name], a[name]) for name in mean)
    record = training_record(tmp_path / "mean")
    assert [part["seed"] for part in record["averaged"]] == [3, 4] and len({part["weights_sha256"] for part in record["averaged"]}) == 2
    assert [training.get("seed") for training in trainings(record)] == [None, 3, 1, 4] and renders_seen(record) == 8


def test_the_card_of_an_average_lists_each_training_once(pair: list[Path], tmp_path: Path) -> None:
    history = json.loads(Path("docs/results/base_model_history.json").read_text(encoding="utf-8"))
    record = training_record(average(pair, tmp_path / "mean"))
    text = write_card(tmp_path / "mean", history, record, {}, Path("sheet.jpg")).read_text(encoding="utf-8")
    assert "base-model average`: the mean of the weights of 2 trainings" in text and "They (1, 3) and what they started from" in text
    assert [line.rpartition("; ")[2] for line in text.splitlines() if line.startswith(("1. ", "3. "))] == ["from number 2"] * 2


def test_pipelines_that_cannot_be_averaged_are_refused_and_nothing_is_written(pair: list[Path], images: np.ndarray, tmp_path: Path) -> None:
    tokenizer, other = build_tokenizer(["a", "crater"]), tmp_path / "other"
    assemble(Denoiser(build_unet(4), build_text_encoder(tokenizer)), build_autoencoder(fit_linear_code(images[::-1, ::2], 4)), tokenizer, other, {})
    for folders, out, words in (
        ([pair[0]], tmp_path / "mean", "two or more"),
        ([pair[0], pair[0]], tmp_path / "mean", "two or more"),
        (pair, pair[0], "another one with --out"),
        ([pair[0], other], tmp_path / "mean", "other latents"),
        ([pair[0], tmp_path / "none"], tmp_path / "mean", "is no folder"),
    ):
        with pytest.raises(InputError, match=words):
            average(folders, out)
    assert not (tmp_path / "mean").exists() and training_record(pair[0])["seed"] == 3
