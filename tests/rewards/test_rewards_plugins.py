"""The examples of docs/plugins.md, run as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.config.catalogue import EXTRACTORS, METRICS, POLICIES, load_plugins
from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.rewards.composition import RewardFunction

EXAMPLES = Path("docs/examples")


@pytest.fixture
def plugged(monkeypatch):
    """Load plug-in files for one test: tables, modules and environment are put back after it."""
    monkeypatch.setenv("CRATER_PLUGINS", "")
    before = {table.kind: set(table.names()) for table in (METRICS, EXTRACTORS, POLICIES)}
    modules = set(sys.modules)
    yield load_plugins
    for table in (METRICS, EXTRACTORS, POLICIES):
        for name in set(table.names()) - before[table.kind]:
            table.remove(name)
    for name in set(sys.modules) - modules:
        if name.startswith("crater_plugin_"):
            del sys.modules[name]


def test_metric_and_extractor_of_the_examples_score_and_credit(plugged, renders, monkeypatch):
    from backend.features.load import load_extractor

    monkeypatch.setattr("backend.rewards.spaces.load_extractor", load_extractor)
    plugged([EXAMPLES / "hue_metric.py", EXAMPLES / "thumbnail_extractor.py"])
    assert "HUE" in METRICS.names()
    config = TrainConfig(metric="HUE", extractor="thumbnail")
    function = RewardFunction(config, renders.reference[:20], [])
    result = function(renders.diverse[0], renders.diverse_captions[0], torch.arange(16))
    colours = renders.diverse[0].double().mean((2, 3)).numpy()

    def score(rows):
        return np.mean([np.linalg.norm(a - b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])

    assert result.score == pytest.approx(score(colours), abs=1e-6)
    expected = [score(colours) - score(np.delete(colours, i, axis=0)) for i in range(16)]
    np.testing.assert_allclose(result.raw_components["diversity"], expected, atol=1e-6)
    assert result.features.shape == (16, 192)


FLAT = """
from backend.config.catalogue import METRICS
from backend.rewards.base import SetMetric

@METRICS.register("FLAT", "Mean of all features.", differentiable=True)
class Flat(SetMetric):
    name = "FLAT"

    def set_value(self, x):
        return x.mean()

    def set_credit(self, x):
        from backend.rewards.base import Credit

        total = x.mean() - (x.sum(0) - x).mean(1) / (len(x) - 1)
        return Credit(total, 0 * total)
"""


def test_a_metric_that_says_so_is_differentiated(plugged, renders, monkeypatch, tmp_path):
    from backend.features.load import load_extractor

    monkeypatch.setattr("backend.rewards.spaces.load_extractor", load_extractor)
    (tmp_path / "flat.py").write_text(FLAT)
    plugged([tmp_path / "flat.py", EXAMPLES / "thumbnail_extractor.py", EXAMPLES / "hue_metric.py"])
    config = TrainConfig(metric="FLAT", extractor="thumbnail", use_bonuses=False)
    assert config.pathwise_share == 1 and TrainConfig(ensemble="FLAT=1, HUE=1").pathwise_share == 0
    function = RewardFunction(config, renders.reference[:20], [])
    gradient = function.image_gradient(renders.diverse[0], renders.diverse_captions[0], torch.arange(16))
    changed = renders.diverse[0] + 1e-3 * gradient.sign()
    before, after = (function(images, renders.diverse_captions[0], torch.arange(16)).score for images in (renders.diverse[0], changed))
    assert after > before
    (tmp_path / "own.py").write_text(FLAT.replace("FLAT", "OWN") + "\n    def embed(self, batch):\n        return batch.images\n")
    with pytest.raises(InputError, match="embed of its own"):
        plugged([tmp_path / "own.py"])


def test_policy_of_the_examples_moves_guidance_only(plugged, tiny_pipeline):
    from backend.diffusion.backbone import load_backbone
    from backend.policies.base import build_policy

    plugged([EXAMPLES / "guidance_policy.py"])
    config = TrainConfig(mode="GUIDANCE_POLICY", num_inference_steps=6, window_start=0, window_size=2)
    policy = build_policy(config, load_backbone(tiny_pipeline))
    out = policy.head(torch.ones(2, policy.head.in_features))
    out.sum().backward()
    gradient = policy.head.weight.grad
    assert float(gradient[:-1].abs().max()) == 0
    assert float(gradient[-1].abs().min()) > 0


def test_a_file_named_twice_is_run_once_and_children_inherit_it(plugged, tmp_path, monkeypatch):
    count = tmp_path / "count"
    plugin = tmp_path / "mine.py"
    plugin.write_text(f"from pathlib import Path\np = Path({str(count)!r})\np.write_text((p.read_text() if p.exists() else '') + 'x')\n")
    monkeypatch.setenv("CRATER_PLUGINS", str(plugin))
    assert plugged([]) == plugged([plugin]) == [plugin.resolve()]
    assert count.read_text() == "x"
    assert os.environ["CRATER_PLUGINS"] == str(plugin.resolve())


@pytest.mark.parametrize(("name", "text", "says"), [("bad.py", "1 / 0", "ZeroDivisionError"), ("absent.py", None, "does not exist"), ("notes.txt", "x", "no .py file")])
def test_plug_ins_that_fail_say_why(plugged, tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        plugged([tmp_path / name])


def test_a_name_that_is_taken_is_refused(plugged, tmp_path):
    (tmp_path / "taken.py").write_text('from backend.config.catalogue import METRICS\nMETRICS.register("MMD", "Again.")(int)\n')
    with pytest.raises(InputError, match="registered already"):
        plugged([tmp_path / "taken.py"])


def test_the_command_line_knows_a_plug_in_of_the_environment():
    environment = {**os.environ, "CRATER_PLUGINS": str(EXAMPLES / "thumbnail_extractor.py")}
    command = [sys.executable, "-m", "backend", "config", "show", "--extractor", "thumbnail"]
    known = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert known.returncode == 0, known.stderr
    assert '"extractor": "thumbnail"' in known.stdout
    unknown = subprocess.run(command, env={**os.environ, "CRATER_PLUGINS": ""}, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "thumbnail" in unknown.stderr
