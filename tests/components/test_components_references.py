"""The Reference tab on sets without renderer parameters: what it says of them, and what can be taken along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.reference import statistics
from backend.reference.dataset import load_reference
from backend.reference.importing import import_reference
from backend.reference.statistics import describe_features, describe_images
from components import reference_tab, references
from components.context import PageContext
from components.markup import number
from components.reference_tab import ReferenceTab


@pytest.fixture
def mine(context: PageContext, tmp_path: Path) -> Path:
    """An imported set of twelve images, of which the last repeats the first."""
    generator, source = np.random.default_rng(0), tmp_path / "pictures"
    source.mkdir()
    pictures = [generator.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(11)]
    for i, picture in enumerate([*pictures, np.clip(pictures[0].astype(int) + 3, 0, 255).astype(np.uint8)]):
        Image.fromarray(picture).resize((64, 64), Image.Resampling.BICUBIC).save(source / f"{i:02d}.png")
    folder = context.references.imported / "mine"
    folder.parent.mkdir(parents=True)
    import_reference(source, folder, size=64, name="mine")
    return folder


def test_every_set_says_what_its_images_are_like(context: PageContext, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tab, exact = ReferenceTab(context, context.references), describe_images(load_reference(mine))
    shown = tab.measure("mine")
    assert number(exact["brightness_mean"], 3) in shown and number(exact["spectral_slope"], 3) in shown and "64 x 64 pixels" in shown and "0 of 12 images" in shown
    assert len(exact["near_duplicates"]) == 1 and all(name in shown for name in exact["near_duplicates"][0]) and "evenly over" not in shown
    monkeypatch.setattr(statistics, "describe_images", lambda *args: pytest.fail("measured again"))
    assert tab.measure("mine") == shown and "unknown reference set" in tab.measure("another")
    monkeypatch.undo()
    assert "commonest words" in tab.measure("default") and "none" in tab.measure("default")
    monkeypatch.setattr(references, "MEASURED_PIXELS", 4 * 64 * 64)
    assert "of 4 of its 12 images" in ReferenceTab(context, context.references).measure("mine")


def test_a_damaged_image_is_said_in_the_place_of_figures(context: PageContext, mine: Path) -> None:
    next((mine / "images").glob("*.png")).write_bytes(b"no picture")
    assert "cannot be read" in ReferenceTab(context, context.references).measure("mine")


def test_build_says_how_far_features_spread_and_gives_them_along(context: PageContext, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(1).standard_normal((12, 5)).astype(np.float32)
    about = {"name": "resnet18", "layer": "avgpool", "dimension": 5, "sha256": "ab"}
    monkeypatch.setattr(reference_tab, "reference_features", lambda *args: (features, about))
    said, plot, file = ReferenceTab(context, context.references).features("mine", "resnet18")
    spread = describe_features(features)
    assert all(number(spread[name], 3) in said for name in ("effective_rank", "pairwise_mean", "nearest_min", "nearest_median")) and len(plot["data"][0]["x"]) == 12
    assert file.visible and Path(file.value["path"]).name == "reference_crater_features_resnet18.npz"
    with np.load(file.value["path"], allow_pickle=False) as stored:
        assert (stored["features"] == features).all() and str(stored["extractor"]) == "resnet18" and len(stored["sha256"]) == 12


def test_features_of_one_image_are_refused_with_a_sentence(context: PageContext, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = np.zeros((1, 5), np.float32), {"name": "x", "layer": "y", "sha256": "z"}
    monkeypatch.setattr(reference_tab, "reference_features", lambda *args: one)
    said, plot, file = ReferenceTab(context, context.references).features("mine", "x")
    assert "import two or more" in said and plot is None and not file.visible
