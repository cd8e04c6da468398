"""The embedded model and its judges are those that the committed results measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from backend.base_model.recipe import weights_sha256

MODEL, JUDGES, RESULTS = Path("assets/models/crater-tiny"), Path("assets/models/attributes"), Path("docs/results")


def results(name: str) -> dict:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_the_shipped_model_is_small_and_is_the_one_that_was_measured() -> None:
    assert sum(f.stat().st_size for f in MODEL.rglob("*") if f.is_file()) < 40e6
    measured = results("base_model.json")
    assert measured["weights_sha256"] == weights_sha256(MODEL) and measured["reconstruction_rmse"] <= 0.03


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2", "efficientnet_lite0_regions", "image_statistics"])
def test_every_result_names_the_judges_that_are_shipped(name: str) -> None:
    path = JUDGES / f"{name}.safetensors" if name != "image_statistics" else Path("backend/evaluation/image_statistics.py")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == results("base_model.json")["judges"][name] == results("judges.json")["judges"][name]["sha256"]
