"""Fine-tuning on a person's own pictures: what is refused and how, that the loss falls, that resuming is exact."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from backend.base_model import finetune, progress, recipe, sharpen
from backend.base_model.data import SIZE, mixture
from backend.base_model.denoiser import Denoiser, build_unet, train_denoiser
from backend.base_model.finetune import FineTuning, fine_tune
from backend.base_model.linear_code import build_autoencoder, fit_linear_code
from backend.base_model.pictures import MINIMUM, cut_notes, load_pictures
from backend.base_model.recipe import assemble, initialisation
from backend.base_model.text import build_text_encoder, build_tokenizer
from backend.cli.app import main
from backend.errors import InputError
from backend.reference.captions import VOCABULARY, caption
from backend.reference.renderer import render_batch, sample_parameters

TINY = FineTuning(decoder_steps=2, denoiser_steps=3, sharpen_steps=1, finish_steps=1, batch=2, renders_share=0.0)
UNSHARPENED = replace(TINY, sharpen_steps=0, finish_steps=0)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch) -> None:
    monkeypatch.setattr(finetune, "LOSS_BATCHES", 2)
    monkeypatch.setattr(recipe, "DRAWN", 2)


@pytest.fixture(scope="module")
def crops() -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(1)
    params = [sample_parameters(rng, view="aerial") for _ in range(5)]
    return render_batch(params, range(5), size=SIZE), [caption(p) for p in params]


@pytest.fixture(scope="module")
def base(crops, tmp_path_factory, narrow) -> Path:
    tokenizer = build_tokenizer(VOCABULARY)
    code = fit_linear_code(crops[0], channels=4)
    with initialisation(0):
        folder = tmp_path_factory.mktemp("base")
        return assemble(Denoiser(build_unet(4), build_text_encoder(tokenizer)), build_autoencoder(code), tokenizer, folder / "model", {"seed": 0})


@pytest.fixture
def folder(crops, tmp_path) -> Path:
    path = tmp_path / "crops"
    path.mkdir()
    rows = []
    for i, (pixels, text) in enumerate(zip(*crops, strict=True)):
        Image.fromarray(pixels).save(path / f"crop_{i}.png")
        rows.append(json.dumps({"file_name": f"crop_{i}.png", "text": text}))
    (path / "metadata.jsonl").write_text("\n".join(rows))
    return path


def rewrite(folder: Path, change) -> None:
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in change(rows)))


def test_pictures_and_captions_are_those_of_the_folder(folder, crops) -> None:
    pictures = load_pictures(folder, None)
    assert (pictures.images == crops[0]).all() and list(pictures.captions) == crops[1]
    assert pictures.aerial.all() and not pictures.notes
    table = folder.parent / "captions.csv"
    table.write_text("file_name,text\n" + "\n".join(f"crop_{i}.png,{text}" for i, text in enumerate(crops[1])))
    assert load_pictures(folder, table).sha256() == pictures.sha256()


def test_other_sizes_are_cropped_and_turned_as_the_import_does(folder) -> None:
    tall = np.zeros((200, 160, 3), np.uint8)
    tall[20:180, :80] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(tall).save(folder / "crop_0.png", exif=exif)
    Image.fromarray(tall[:60, :60] // 2 + np.arange(60, dtype=np.uint8)[:, None, None]).save(folder / "crop_1.png")
    pictures = load_pictures(folder, None)
    assert pictures.images.shape == (5, SIZE, SIZE, 3)
    assert pictures.images[0, 64, 10, 0] < 10 and pictures.images[0, 64, -10, 0] > 245
    assert "crop_1.png" in pictures.notes[0] and "enlarged" in pictures.notes[0]


def test_unknown_words_are_listed_and_training_goes_on(folder) -> None:
    rewrite(folder, lambda rows: [{**row, "text": row["text"] + " near Gusev"} for row in rows])
    (note,) = load_pictures(folder, None).notes
    assert "2 words" in note and "gusev" in note and "near" in note and "training goes on" in note


def test_captions_longer_than_the_text_encoder_reads_are_counted_and_the_first_ends_where_it_is_said_to(folder, base, tmp_path) -> None:
    words = [VOCABULARY[i % len(VOCABULARY)] for i in range(40)]
    texts = (" ".join(words[:30]), " ".join(words[:31]), " ".join(words))  # with start and end 32, 33 and 42 tokens
    rewrite(folder, lambda rows: [*({**row, "text": text} for row, text in zip(rows, texts, strict=False)), *rows[3:]])
    notes: list[str] = []
    fine_tune(load_pictures(folder, None), UNSHARPENED, tmp_path / "out", start_from=base, work=tmp_path / "work", note=notes.append)
    (note,) = notes
    assert note.startswith("2 of 5 captions have more than the 32 tokens") and f"…{' '.join(words[:30])[-60:]}'" in note
    tokenizer = build_tokenizer(VOCABULARY)
    assert cut_notes(texts[:1], tokenizer) == [] and tokenizer(texts[2], truncation=True).input_ids[1:-1] == tokenizer(texts[0]).input_ids[1:-1]


FAULTS = {
    "no caption \\(crop_4.png\\)": lambda f: rewrite(f, lambda rows: rows[:-1]),
    "belong to no image .*crop_9.png": lambda f: rewrite(f, lambda rows: [*rows, {"file_name": "crop_9.png", "text": "aerial view of mars craters"}]),
    f"at least {MINIMUM}": lambda f: [p.unlink() for p in sorted(f.glob("*.png"))[1:]],
    "holds no images": lambda f: [p.unlink() for p in f.glob("*.png")],
    "no captions: put a metadata.jsonl": lambda f: (f / "metadata.jsonl").unlink(),
    "crop_2.png: not an image that can be read": lambda f: (f / "crop_2.png").write_bytes(b"no image"),
    "crop_3.png: 16 x 16 pixels: each side needs at least 32": lambda f: Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(f / "crop_3.png"),
    "line 1: not JSON": lambda f: (f / "metadata.jsonl").write_text("{"),
}


def test_a_caption_is_not_taken_for_that_of_another_image_of_the_same_name(folder, crops) -> None:
    (folder / "extra").mkdir()
    Image.fromarray(crops[0][1, ::-1]).save(folder / "extra/crop_0.png")
    with pytest.raises(InputError, match="caption of crop_0.png would serve 2 images .crop_0.png, extra/crop_0.png.: give each a row"):
        load_pictures(folder, None)
    rewrite(folder, lambda rows: [*rows, {"file_name": "extra/crop_0.png", "text": "ground view of mars craters"}])
    pictures = load_pictures(folder, None)
    assert dict(zip(pictures.names, pictures.captions, strict=True))["extra/crop_0.png"] == "ground view of mars craters"
    assert pictures.captions.count(crops[1][0]) == crops[1].count(crops[1][0])


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_named_with_their_files(folder, message) -> None:
    FAULTS[message](folder)
    with pytest.raises(InputError, match=message):
        load_pictures(folder, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "{folder}", "--out", "{base}"], "exists: name a new folder"),
        (["--images", "{folder}/nothing"], "does not exist"),
        (["--images", "{folder}", "--captions", "{folder}/nothing.csv"], "does not exist"),
        (["--captions", "{folder}/metadata.jsonl"], "--images"),
        (["--images", "{folder}", "--renders-share", "1"], "out of bounds"),
        (["--images", "{folder}", "--start-from", "{folder}"], "base-model train"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(folder, base, tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [a.format(folder=folder, base=base) for a in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["base-model", "train", "--device", "cpu", *([] if "--start-from" in filled else ["--start-from", str(base)]), *filled])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and error.startswith("error:") and message in error


def test_loss_on_the_pictures_falls_and_renders_are_mixed_in(folder, base, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("backend.base_model.data.SHARD", 4)
    plan = FineTuning(decoder_steps=2, denoiser_steps=40, sharpen_steps=1, batch=4, learning_rate=2e-3, renders=4)
    out = fine_tune(load_pictures(folder, None), plan, tmp_path / "tuned", start_from=base, work=tmp_path / "work", renders=tmp_path)
    record = json.loads((out / "training.json").read_text())
    assert record["loss_after"]["pictures"] < 0.9 * record["loss_before"]["pictures"]
    assert set(record["loss_after"]) == {"pictures", "renders"} and record["started_from"]["seed"] == 0
    assert not list((tmp_path / "work").glob("*.pt")) and not (tmp_path / "work/unfinished.npz").exists()


def test_mixture_draws_the_stated_share() -> None:
    drawn = mixture(10, 1000, 0.25)(np.random.default_rng(0), 20_000)
    assert abs((drawn >= 10).mean() - 0.25) < 0.01 and drawn.min() == 0 and drawn.max() == 1009


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": value for part in ("unet", "text_encoder", "vae") for path in (folder / part).glob("*.safetensors") for name, value in load_file(path).items()}


class Killed(Exception):
    """Stands for a process that is killed."""


def test_killed_after_every_save_it_goes_on_exactly(folder, base, tmp_path, monkeypatch) -> None:
    pictures = load_pictures(folder, None)
    monkeypatch.setattr(finetune, "train_denoiser", partial(train_denoiser, save_every=1))
    monkeypatch.setattr(recipe, "sharpen_model", partial(sharpen.sharpen_model, save_every=1))
    whole = weights(fine_tune(pictures, TINY, tmp_path / "whole", start_from=base, work=tmp_path / "work_whole"))

    def save_and_die(*args: object, **kwargs: object) -> None:
        progress.save_progress(*args, **kwargs)
        raise Killed

    @contextmanager
    def write_and_die(path: Path) -> Iterator[BinaryIO]:
        with progress.whole_file(path) as file:
            yield file
        raise Killed

    def die(*args: object) -> None:
        raise Killed

    def train() -> Path:
        return fine_tune(pictures, TINY, tmp_path / "parts", start_from=base, work=tmp_path / "work_parts")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.base_model.decoder.save_progress", save_and_die)
        patch.setattr("backend.base_model.denoiser.save_progress", save_and_die)
        patch.setattr("backend.base_model.recipe.whole_file", write_and_die)
        patch.setattr("backend.base_model.sharpen.save_progress", save_and_die)
        patch.setattr(finetune, "assemble", die)
        saves = 1 + TINY.denoiser_steps + 1 + TINY.sharpen_steps + TINY.finish_steps  # the decoder's, one a step, the drawn latents, one a step
        for _ in range(saves + 1):  # and while the pipeline is written
            with pytest.raises(Killed):
                train()
            assert not (tmp_path / "parts").exists()
    parts = weights(train())
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_progress_of_other_pictures_is_refused(folder, base, tmp_path) -> None:
    pictures = load_pictures(folder, None)
    progress.claim(tmp_path / "work", {"pictures": "other"})
    with pytest.raises(InputError, match="another training"):
        fine_tune(pictures, TINY, tmp_path / "out", start_from=base, work=tmp_path / "work")


def test_full_disk_leaves_no_half_model(folder, base, tmp_path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diffusers.StableDiffusionPipeline.save_pretrained", full)
    with pytest.raises(InputError, match="free some space"):
        fine_tune(load_pictures(folder, None), UNSHARPENED, tmp_path / "out", start_from=base, work=tmp_path / "work")
    assert {path.name for path in tmp_path.iterdir()} == {"crops", "work"}
    assert (tmp_path / "work/denoiser.pt").exists()
