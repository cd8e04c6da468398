"""Pictures: nothing is lost on the way, neighbours against brute force, scratch folders do not pile up."""

from __future__ import annotations

import base64
import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.errors import InputError
from components import compare_views, drawing, pictures
from components.context import PageContext
from components.references import ReferenceLibrary
from components.scratch import scratch_folder
from tests.components.fake_run import write_fake_run


def test_data_addresses_are_lossless() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    kind, content = pictures.data_address(image).split(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), image)


def test_nearest_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(11, 5)) * [1, 5, 1, 0.1, 2]
    index, distance = pictures.nearest(a, b)
    scaled_a, scaled_b = (a - b.mean(0)) / b.std(0), (b - b.mean(0)) / b.std(0)
    for i in range(7):
        every = np.sqrt(((scaled_a[i] - scaled_b) ** 2).mean(1))
        assert index[i] == every.argmin() and distance[i] == pytest.approx(every.min())


def test_a_copy_of_a_reference_image_has_distance_zero() -> None:
    images = np.random.default_rng(2).integers(0, 256, (4, 64, 64, 3), np.uint8)
    index, distance = pictures.nearest(pictures.plain_features(images), pictures.plain_features(images))
    assert index.tolist() == [0, 1, 2, 3] and distance.max() < 1e-6


def test_pairs_of_samples_are_first_and_last_grid(context: PageContext) -> None:
    run = write_fake_run(context.store.root, 12, samples=3)
    pairs = compare_views.recorded_pairs(run)
    assert (pairs.base_title, pairs.tuned_title) == ("before training", "episode 12")
    with Image.open(run.images()[-1].png) as sheet:
        assert np.array_equal(pairs.tuned[5], np.asarray(sheet)[66:130, 66:130])
    assert pairs.seeds == [100 + i for i in range(8)]


def test_scratch_folders_are_removed_when_old() -> None:
    old, young = scratch_folder(), scratch_folder()
    past = time.time() - 7200
    os.utime(old, (past, past))
    new = scratch_folder()
    assert not old.exists() and young.exists() and new.exists()
    for folder in (young, new):
        folder.rmdir()


def test_prompts_counts_and_unknown_words(context: PageContext) -> None:
    assert drawing.check_prompt("  aerial \n view ") == "aerial view"
    for bad in ("", "  ", None, "x" * 4001):
        with pytest.raises(InputError):
            drawing.check_prompt(bad)
    for bad_count in (0, -1, 2.5, None, 10_000):
        with pytest.raises(InputError):
            drawing.check_count(bad_count, context)
    assert drawing.unknown_words("aerial view of fresh Mars craters with unicorns, on smooth plains") == ["unicorns"]


def test_import_reports_refusals_and_offers_the_set(context: PageContext, tmp_path: Path) -> None:
    library = ReferenceLibrary("reference_data", context.store.root)
    rng = np.random.default_rng(3)
    files = []
    for i in range(3):
        files.append(str(tmp_path / f"kratér {i}.png"))
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(files[-1])
    files.append(str(tmp_path / "broken.png"))
    Path(files[-1]).write_bytes(b"not an image")
    files.append(str(tmp_path / "captions.csv"))
    Path(files[-1]).write_text("file,caption\nkratér 1.png,old\n", encoding="utf-8")
    name, lines = library.import_files(files, "my_craters", 64, False)
    assert name == "my_craters" and lines[0].startswith("3 images imported") and any("broken.png" in line for line in lines)
    assert [entry["caption"] for entry in library.manifest("my_craters")["images"]] == ["", "old", ""]
    assert str(library.folder("my_craters")) in context.trusted_choices("reference")
    for bad in ("../up", "", "default", "a/b", "x" * 41):
        with pytest.raises(InputError, match="cannot be used"):
            library.import_files(files, bad, 64, False)
    assert context.store.list() == [], "an imported set must not look like a run"


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        ({"passed": True, "precision": True}, "guards kept."),
        ({"passed": False, "precision": False}, "guards not kept"),
        ({"passed": False, "memorisation": False, "unsettled": ["memorisation"]}, "few images do not settle"),
    ],
)
def test_guards_that_few_images_do_not_settle_are_not_called_broken(guards, said):
    class Judged:
        def evaluation(self):
            return {"table": [], "guards": guards, "notes": []}

    assert said in compare_views.evaluation_table(Judged())
