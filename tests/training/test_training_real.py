"""The trainer with the real agent and reward on a miniature pipeline: exact resume in each mode, artefacts, end-of-run evaluation."""

import csv
import json

import pytest

from backend.analysis.figures import schedule
from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs import RunStore
from backend.training.session import build_session, check_inputs
from backend.training.trainer import train
from tests.training.fingerprint import fingerprint
from tests.training.steering import StopAt

MODES = ["LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY"]


def config(folder, **values) -> TrainConfig:
    small = {
        "base_model": str(folder), "episodes": 4, "prompts_per_group": 2, "images_per_prompt": 2, "num_inference_steps": 5, "window_start": 0, "window_size": 2, "lora_rank": 2,
        "save_every": 2, "sample_every": 4, "probe_every": 2, "probe_images": 2, "eval_images": 0, "threads": 1, "device": "cpu", "queue_size": 16, "company": 16,
    }  # fmt: skip
    return TrainConfig(**{**small, **values})


@pytest.mark.parametrize("mode", MODES)
def test_stopped_in_rollout_and_in_update_and_resumed_is_as_never_stopped(tiny_pipeline, tmp_path, mode):
    settings = config(tiny_pipeline, mode=mode)
    store = RunStore(tmp_path)
    whole = store.create(settings)
    assert train(settings, whole) == "completed", whole.status().error
    run = store.create(settings)
    # Questions: 6 for the base group, then per episode 6 in the rollout and some in the update; levels ask 12 after episode 1.
    for moment in (6 + 6 + 1, 12 + 6 + 3):
        assert train(settings, run, StopAt(run, moment)) == "stopped"
    assert train(settings, run) == "completed"
    assert run.status().attempt == 3 and fingerprint(run) == fingerprint(whole)


def test_a_real_run_records_its_diagnostics_and_its_pictures(tiny_pipeline, tmp_path):
    settings = config(tiny_pipeline, advantage="gae", replay_groups=1, curriculum="guidance", curriculum_episodes=2)
    run = RunStore(tmp_path).create(settings)
    assert train(settings, run) == "completed", run.status().error
    with open(run.table_path("policy_updates"), newline="") as file:
        table = list(csv.DictReader(file))
    names = ["ratio_max", "clip_fraction_up", "explained_variance", "grad_norm_actor", "grad_norm_critic", "gradient_noise_scale", "kl_base", "component_diversity"]
    assert len(table) == 4 and all(table[-1][name] != "" for name in names)
    assert [float(r["guidance_scale"]) for r in table] == pytest.approx([2.25, 4.875, 7.5, 7.5])
    assert [s.episode for s in run.images()] == [0, 4] and len(run.denoising()[0].read()["images"]) == 6
    assert {"attraction", "repulsion", "companion"} <= set(run.images()[0].read()["images"][0]["explanation"])
    assert (run.checkpoints()[-1].path / "policy" / "pytorch_lora_weights.safetensors").is_file()
    assert run.record["simulated_reference"] is True and len(run.record["reference_sha256"]) == 64


def test_the_real_reward_and_agent_learn_what_must_not_be_lost(tiny_pipeline, tmp_path):
    settings = config(tiny_pipeline, episodes=5, lagrange_rate=1.0, probe_every=0)
    run = RunStore(tmp_path).create(settings)
    assert train(settings, run) == "completed", run.status().error
    found = json.loads((run.checkpoints()[-1].path / "trainer.json").read_text())["progress"]["multipliers"]
    assert found.keys() == {"quality", "adherence"} and all(0 <= value < 10 for value in found.values())


def test_prompts_of_any_length_are_trained_on_and_what_is_not_read_is_said(tiny_pipeline, tmp_path):
    (tmp_path / "prompts.txt").write_text("old mars craters\n" + "fresh mars craters on smooth plains " * 200)
    settings = config(tiny_pipeline, episodes=1, train_prompts=str(tmp_path / "prompts.txt"))
    run = RunStore(tmp_path).create(settings)
    assert train(settings, run) == "completed", run.status().error
    told = [event["message"] for event in run.events() if event["kind"] == "alert"]
    assert "1 of 2 training prompts have more than the 16 tokens" in told[0] and "'fresh mars craters" in told[0]


def test_test_prompts_that_are_trained_on_are_refused_or_said(tiny_pipeline, tmp_path):
    paths = {name: tmp_path / f"{name}.txt" for name in ("train_prompts", "test_prompts")}
    settings = config(tiny_pipeline, episodes=1, **{name: str(path) for name, path in paths.items()})
    paths["train_prompts"].write_text("old mars craters\nfresh mars craters\n")
    paths["test_prompts"].write_text("Fresh mars craters\n")
    with pytest.raises(InputError, match="test_prompts .*test_prompts.txt' holds nothing but prompts of train_prompts .*train_prompts.txt'.* name a test_prompts file") as refused:
        check_inputs(settings)
    assert refused.value.field == "test_prompts"
    check_inputs(settings, begun=True)
    paths["test_prompts"].write_text("Fresh mars craters\nwide mars craters\n")
    check_inputs(settings)
    assert build_session(settings).notes[0].startswith("1 of 2 test prompts stand among the training prompts too (first 'Fresh mars craters')")


def test_the_learned_schedule_is_recorded_with_each_sample_and_drawn(tiny_pipeline, tmp_path):
    settings = config(tiny_pipeline, mode="SCHEDULER_POLICY", learning_rate=0.1)
    run = RunStore(tmp_path).create(settings)
    assert train(settings, run) == "completed"
    first, last = (json.loads(found.json.read_text())["policy"] for found in (run.images()[0], run.images()[-1]))
    assert all(row == pytest.approx(first["stock_betas"]) for row in first["betas"]) and first["guidance"] == pytest.approx([7.5] * len(first["guidance"]))
    assert last["betas"] != first["betas"] and last["stock_betas"] == first["stock_betas"]
    stock, mean = schedule(run)["data"][:2]
    assert stock["y"] == pytest.approx(last["stock_betas"]) and mean["y"] != pytest.approx(stock["y"])


@pytest.mark.parametrize("mode", MODES)
def test_one_image_an_episode_learns_from_the_queue(tiny_pipeline, tmp_path, mode):
    settings = config(tiny_pipeline, mode=mode, prompts_per_group=1, images_per_prompt=1)
    run = RunStore(tmp_path).create(settings)
    assert train(settings, run) == "completed", run.status().error
    steps = run.read_columns("policy_updates", 0, ["optimiser_steps"])[0]["optimiser_steps"]
    assert sum(steps) > 0 and run.status().skipped == 0


def test_the_first_sample_is_the_base_and_sampling_leaves_the_agent_alone(tiny_pipeline):
    import torch

    settings = config(tiny_pipeline)
    session = build_session(settings)
    before = session.agent.state_dict()["tensors"]
    frames = session.denoise(session.train_embeds[:1], 5)
    base = session.agent.rollout(session.train_embeds[:1], [5], base=True, deterministic=True).images
    assert frames.shape[0] == 6 and torch.equal(frames[-1:], base)
    after = session.agent.state_dict()["tensors"]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_evaluation_at_the_end_of_a_run(tiny_pipeline, tmp_path):
    settings = config(tiny_pipeline, episodes=1, eval_images=20)
    run = RunStore(tmp_path).create(settings)
    assert train(settings, run) == "completed"
    assert run.evaluation() is not None, [e["message"] for e in run.events() if e["kind"] == "alert"]
