"""What `python -m backend doctor` says of sound and unsound machines."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from backend.cli import doctor
from backend.config import TrainConfig, load_preset, make_config
from backend.errors import InputError


def lines(config: TrainConfig) -> dict[str, str]:
    """What each check says by its name."""
    said: list[str] = []
    doctor.run_checks(config, said.append)
    return {line[5:].split(":")[0]: line for line in said}


def test_a_sound_machine_passes_every_check(tiny_pipeline):
    said = lines(make_config({**doctor.SMALL, "base_model": str(tiny_pipeline)}))
    assert list(said) == list(doctor.CHECKS)
    assert all(line.startswith("ok  ") for line in said.values()), said


@pytest.mark.parametrize(("model", "nats"), [("tiny_pipeline", 0.5), pytest.param("crater_tiny", 10.0, marks=pytest.mark.slow)])  # slow where bf16 is emulated
def test_a_precision_whose_rounding_fills_the_trust_region_is_named(request, model, nats):
    said = lines(make_config({**doctor.SMALL, "base_model": str(request.getfixturevalue(model)), "precision": "bf16", "target_kl_nats": nats}))
    assert said["rounding"].startswith("FAIL") and f"of the {nats:g} that end an update" in said["rounding"] and "fp16" in said["rounding"]
    assert said["ratio"].startswith("ok  ")  # in the rollout's own batches the same rounding twice is none


@pytest.mark.parametrize("precision", ["fp32", load_preset("one_gpu_sd15")["values"]["precision"], load_preset("many_gpus")["values"]["precision"]])
def test_rounding_in_the_precision_of_the_presets_leaves_the_trust_region(tiny_pipeline, precision):
    nats = {}
    for name in (precision, "bf16"):
        line = lines(make_config({**doctor.SMALL, "base_model": str(tiny_pipeline), "precision": name}))["rounding"]
        nats[name] = float(line.split("policy by ")[1].split(" nats")[0])
    assert nats[precision] < nats["bf16"] / 16


def test_the_ratio_is_asked_in_the_shape_of_the_rollout(tiny_pipeline, monkeypatch):
    from backend.diffusion import guidance

    shapes, prediction = [], guidance.guided_prediction

    def watched(backbone, latents, *args, **kwargs):
        shapes.append(len(latents))
        return prediction(backbone, latents, *args, **kwargs)

    config, memory = make_config({**doctor.SMALL, "base_model": str(tiny_pipeline)}), {}
    for name in ("model", "rollout"):
        doctor.CHECKS[name](config, memory)
    monkeypatch.setattr("backend.policies.lora.guided_prediction", watched)
    doctor.CHECKS["ratio"](config, memory)
    assert shapes == [config.group_size] * config.window_size


def test_checks_after_a_failed_one_name_it_and_any_error_is_a_line(monkeypatch):
    def refuse(config: TrainConfig, memory: dict) -> str:
        raise NotImplementedError("no kernel for this card")

    monkeypatch.setitem(doctor.CHECKS, "model", refuse)
    said = lines(make_config(doctor.SMALL))
    assert "FAIL model: NotImplementedError: no kernel for this card" in said["model"]
    assert "needs the check 'model' before it" in said["rollout"]
    assert "needs the check 'rollout' before it" in said["ratio"] and "needs the check 'model' before it" in said["reward"]


def test_the_precision_is_a_flag_and_a_wrong_one_is_refused(monkeypatch):
    seen: list[TrainConfig] = []
    monkeypatch.setattr(doctor, "run_checks", lambda config: seen.append(config) or True)
    CliRunner().invoke(doctor.app, ["--precision", "fp16"], catch_exceptions=False)
    assert seen[0].precision == "fp16"
    with pytest.raises(InputError, match="fp32, bf16, fp16"):
        CliRunner().invoke(doctor.app, ["--precision", "int4"], catch_exceptions=False)
