"""What every test may use: a miniature pipeline, a runs folder of its own, and the model that is shipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests never wait for a hub
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults such as assets/prompts are relative to the project's folder."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder that `RUNS_DIR` names."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("RUNS_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random miniature pipeline of Stable Diffusion's layout; good for mechanics, never for results."""
    from tests.tiny_pipeline import make_tiny_pipeline

    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_pipeline(folder)
    return folder


@pytest.fixture(scope="session")
def crater_tiny() -> Path:
    """Folder of the embedded model."""
    folder = ROOT / "assets/models/crater-tiny"
    if not (folder / "model_index.json").exists():
        pytest.skip("the embedded model is not there: run `make base-model`")
    return folder


@pytest.fixture(scope="session")
def real_crops() -> Path:
    """Folder of real crater crops."""
    named = os.environ.get("REAL_CROPS_DIR")
    if not named or not Path(named).is_dir():
        pytest.skip("REAL_CROPS_DIR names no folder of real crater crops")
    return Path(named)
