"""Pure parts of the trainer: seeds, packing, grids, curriculum, pace, costs, redaction."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.config import POLICIES, TrainConfig, load_preset, make_config
from backend.errors import InputError
from backend.training import cost
from backend.training.annealing import anneal, lr_factor
from backend.training.curriculum import Curriculum
from backend.training.live import live_fields, validate_change
from backend.training.packing import pack, snapshot, unpack
from backend.training.pictures import layout, save_grid, to_uint8
from backend.training.progress import Pace, Progress
from backend.training.record import machine_record, threads
from backend.training.redact import redact
from backend.training.rows import sample_diversity
from backend.training.seeds import choose_group, fixed_group, reference_subsets, update_generator
from backend.training.summary import opening_lines
from tests.training.fake_learner import environment, small_config


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 40), st.integers(1, 10), st.integers(1, 4), st.integers(1, 10**6))
def test_a_group_has_each_prompt_n_times_and_no_seed_twice(seed, prompts, groups, copies, episode):
    config = TrainConfig(seed=seed, prompts_per_group=groups, images_per_prompt=copies, minibatches=2) if groups * copies >= 2 else None
    if config is None:
        return
    index, seeds = choose_group(config, prompts, episode)
    assert len(index) == len(seeds) == len(set(seeds)) == groups * copies
    counts = np.bincount(index, minlength=prompts)
    assert counts.max() - counts.min() <= copies and all(c % copies == 0 for c in counts)
    assert (index, seeds) == choose_group(config, prompts, episode)
    assert max(seeds) < 2**53


def test_a_group_of_one_is_told_that_diversity_needs_company():
    alone = TrainConfig(prompts_per_group=1, images_per_prompt=1)
    assert "diversity needs company" in opening_lines(alone, 1)[-1] and "company" not in opening_lines(TrainConfig(), 1)[-1]
    assert alone.pathwise_share == 0


def test_episodes_and_runs_draw_different_groups():
    config = small_config()
    drawn = {tuple(choose_group(config, 25, e)[1]) for e in range(200)} | {tuple(choose_group(small_config(seed=1), 25, e)[1]) for e in range(200)}
    assert len(drawn) == 400
    firsts = np.array([choose_group(config, 25, e)[0][0] for e in range(2000)])
    assert np.bincount(firsts, minlength=25).min() > 40  # 80 expected; 40 is 4.5 standard deviations below


def test_fixed_images_are_the_same_whenever_asked():
    config = small_config()
    assert fixed_group(config, 3, 7) == fixed_group(config, 3, 7)
    assert fixed_group(config, 3, 7)[0] == [0, 1, 2, 0, 1, 2, 0]
    assert not set(fixed_group(config, 3, 7)[1]) & set(choose_group(config, 3, 0)[1])
    assert torch.equal(torch.randperm(9, generator=update_generator(config, 4)), torch.randperm(9, generator=update_generator(config, 4)))
    assert all(len(set(s)) == 5 for s in reference_subsets(config, 12, 5, 8)) and len(reference_subsets(config, 3, 5, 1)[0]) == 5


def nested():
    return {
        "a": torch.arange(6).reshape(2, 3).t(), "b": [1, 2.5, None, True, "x", (torch.ones(1, dtype=torch.bfloat16), -0.0)], 3: {"q": math.inf, 4: torch.zeros(0)},
        "numpy": np.arange(3, dtype=np.int16), "bytes": b"\x00\xff", "__odd": 1, "scalar": torch.tensor(2.5, dtype=torch.float64), "np": np.float32(0.1),
    }  # fmt: skip


def test_state_survives_packing_to_the_bit():
    state = nested()
    skeleton, tensors = pack(state)
    back = unpack(json.loads(json.dumps(skeleton)), tensors)
    assert torch.equal(back["a"], state["a"]) and back["a"].is_contiguous()
    assert back["b"][:5] == state["b"][:5] and torch.equal(back["b"][5][0], state["b"][5][0]) and back["b"][5][0].dtype == torch.bfloat16
    assert math.copysign(1, back["b"][5][1]) == -1 and isinstance(back["b"][5], tuple)
    assert back[3]["q"] == math.inf and back[3][4].shape == (0,) and back["__odd"] == 1
    assert back["bytes"] == b"\x00\xff" and back["numpy"].dtype == np.int16 and back["numpy"].tolist() == [0, 1, 2]
    assert back["scalar"].item() == 2.5 and back["scalar"].dtype == torch.float64 and back["np"] == np.float32(0.1)
    with pytest.raises(TypeError, match=r"cannot hold a set \(at a\.0\)"):
        pack({"a": [{1}]})


def test_a_snapshot_is_out_of_trainings_reach():
    state = {"w": torch.zeros(2), "n": [np.zeros(1)]}
    kept = snapshot(state)
    state["w"] += 1
    state["n"][0] += 1
    assert kept["w"].sum() == 0 and kept["n"][0].sum() == 0


def test_every_tile_of_a_grid_can_be_cut_out_again(tmp_path):
    images = torch.rand(7, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    images[3, 0, 0, 0] = math.nan
    save_grid(tmp_path / "episode_000001", images, [{"prompt": f"<b>{i}"} for i in range(7)], columns=3, episode=1)
    known, picture = json.loads((tmp_path / "episode_000001.json").read_text()), np.asarray(Image.open(tmp_path / "episode_000001.png"))
    assert (known["columns"], known["rows"], known["tile"], list(picture.shape)) == (3, 3, [9, 5], [*reversed(known["size"]), 3])
    expected = to_uint8(images)
    for entry in known["images"]:
        x, y, w, h = entry["box"]
        assert np.array_equal(picture[y : y + h, x : x + w], expected[entry["index"]])
    assert known["images"][2]["prompt"] == "<b>2" and expected[3, 0, 0, 0] == 0
    assert layout(1, (4, 4))["size"] == [4, 4]


def pace_of(episode, evaluation):
    return Pace(SimpleNamespace(seconds_per_episode=episode, evaluation_seconds=evaluation))


def test_pace_is_a_median_and_unknown_at_first():
    pace = pace_of(1.0, 0.0)
    for seconds, median in [(100.0, None), (2.0, None), (3.0, 3.0), (4.0, 3.5)]:
        pace.durations.append(seconds)
        assert pace.seconds_per_episode == median and (pace.left(10) is None) == (median is None)
    pace.durations += [50.0] * 30 + [1.0] * 20
    assert pace.seconds_per_episode == 1.0


def test_the_time_left_counts_what_lies_between_episodes_and_the_evaluation():
    pace = pace_of(2.0, 10.0)  # by the cost model the evaluation takes as long as five episodes
    for number in range(1, 21):
        pace.durations.append(1.0)
        pace.add_turn(90.0 if number == 1 else 1.0 + 4.0 * (number % 10 == 0))  # a warm-up; every tenth episode a probe, a sample and a checkpoint
    turn = (19 + 8) / 19
    assert pace.seconds_per_episode == 1.0
    assert pace.left(40) == pytest.approx(45 * turn) and pace.left(0) == pace.evaluation() == pytest.approx(5 * turn)
    assert pace_of(2.0, 0.0).evaluation() is None


def test_progress_ignores_what_is_not_finite():
    progress = Progress()
    for score in (0.5, math.nan, 0.75, 0.25):
        progress.add(score, 16)
    assert (progress.best_score, progress.best_episode, progress.images, progress.episode) == (0.75, 3, 64, 4)
    assert progress.smooth_score == 0.5
    progress.under(9.0, 1.0)
    progress.add(0.25, 16)
    assert (progress.best_score, progress.best_episode, progress.smooth_score) == (0.25, 5, 0.25)  # another guidance: what was before is no yardstick
    progress.under(9.0, 1.0)
    assert progress.best_score == 0.25
    assert Progress.from_dict({**progress.to_dict(), "of_a_later_version": 1}).to_dict()["best_episode"] == 5
    earlier = Progress.from_dict({"base_probe": -0.3, "probe_score": -0.2})
    assert (earlier.probes, earlier.base_probe, earlier.probe_score) == ([-0.3, -0.2], -0.3, -0.2), "a checkpoint from before all probes were kept"
    assert Progress(probes=[-0.3]).probe_score is None, "the base's own probe is no score of the run"


def test_a_curriculum_grows_by_schedule_and_by_success():
    planned = Curriculum(small_config(curriculum="guidance", curriculum_start=0.2, curriculum_episodes=4), {})
    assert [round(planned.level(e), 3) for e in (1, 2, 3, 5, 9)] == [0.2, 0.4, 0.6, 1.0, 1.0]
    memory = {}
    earned = Curriculum(small_config(curriculum="diversity_weight", curriculum_by="success", curriculum_start=0.5, curriculum_episodes=5), memory)
    for score in (1.0, 0.5, 2.0, math.nan, 2.0):
        earned.learn(score)
    assert earned.level(99) == pytest.approx(0.7)
    assert Curriculum(earned.config, memory).level(1) == pytest.approx(0.7)
    assert Curriculum(small_config(), {}).level(1) == 1.0


def test_a_curriculum_sets_what_it_names():
    class Spy:
        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            return lambda *args: self.calls.append((name, *args))

    for what, call in (("diversity_weight", ("set_weight", "diversity", 0.25)), ("guidance", ("set_knob", "guidance_scale", 2.0)), ("reference", ("set_reference_share", 0.25))):
        spy, config = Spy(), small_config(curriculum=what, curriculum_start=0.25, guidance_scale=8.0, diversity_weight=1.0)
        Curriculum(config, {}).apply(1, spy, spy, config)
        assert spy.calls == [call]


def test_only_live_settings_change_and_only_within_bounds():
    config = small_config()
    assert validate_change(config, "learning_rate", "1e-5").learning_rate == 1e-5
    bad = [("episodes", 5, "cannot be changed"), ("nope", 1, "cannot"), (None, 1, "cannot"), ("learning_rate", "nan", "learning_rate"), ("guidance_scale", 99, "guidance_scale")]
    for field, value, words in [*bad, *(("learning_rate", odd, "give a number") for odd in (None, [1], True))]:
        with pytest.raises(InputError, match=words):
            validate_change(config, field, value)
    assert {"learning_rate", "guidance_scale", "kl_base_coef", "diversity_weight"} <= set(live_fields())


def test_secrets_of_the_environment_are_struck_out():
    environ = {"HF_TOKEN": "hf_abcdefghijklmnopqrst", "MY_API_KEY": "s3cr3t-value", "HOME": "/root", "SHORT_TOKEN": "ab"}
    assert redact("at /root with s3cr3t-value and hf_abcdefghijklmnopqrst, ab", environ) == "at /root with *** and ***, ab"
    assert redact("hf_" + "Z" * 30, {}) == "***"


def test_a_runs_record_names_versions_and_no_environment():
    with environment(HF_TOKEN="hf_verysecretverysecret", OMP_NUM_THREADS="3"):
        record = machine_record(small_config(threads=0))
        assert record["threads"] == 3 and threads(small_config(threads=5)) == 5
    assert record["packages"]["torch"].startswith("2.") and "hf_verysecret" not in json.dumps(record)


def test_sample_diversity_is_the_mean_pairwise_distance():
    features = np.random.default_rng(0).normal(size=(5, 7))
    pairs = [np.linalg.norm(features[i] - features[j]) for i in range(5) for j in range(i)]
    assert sample_diversity(torch.from_numpy(features)) == pytest.approx(np.mean(pairs) / math.sqrt(7), rel=1e-12)
    assert sample_diversity(torch.zeros(1, 7)) == 0.0


def test_costs_follow_the_arithmetic_of_forwards():
    base = TrainConfig(kl_base_coef=0.0, num_inference_steps=20, window_start=0, window_size=4, ppo_epochs=1, pathwise=0.0)
    assert cost.unet_forwards(base) == (40, 16, 0)  # T=20, K=4: 56 forwards an image
    assert cost.unet_forwards(base.model_copy(update={"num_inference_steps": 50, "window_size": 48, "ppo_epochs": 2})).update == 384
    assert cost.unet_forwards(base.model_copy(update={"guidance_scale": 1.0})) == (20, 8, 0)
    assert cost.unet_forwards(base.model_copy(update={"mode": "SCHEDULER_POLICY"})) == (40, 0, 0)
    walked = base.model_copy(update={"pathwise": 0.9, "window_start": 5})
    assert cost.unet_forwards(walked) == (40, 16 + 58, 0)  # 14 steps there and back, the window's first one there, twice each
    assert cost.unet_forwards(walked.model_copy(update={"mode": "DIVERSITY_POLICY"})) == (40, 58, 0)
    assert cost.unet_forwards(walked.model_copy(update={"mode": "SCHEDULER_POLICY"})) == (40, 80, 80)  # every step there and back, and two noise levels beside each


def test_costs_follow_the_baseline_and_the_epochs():
    alone = TrainConfig(kl_base_coef=0.0, num_inference_steps=20, window_start=0, window_size=4, ppo_epochs=1, pathwise=0.0, baseline="prompt")
    base = alone.model_copy(update={"baseline": "auto"})
    both, one, longer = (cost.estimate(c, "cpu").seconds_per_episode for c in (base, alone, alone.model_copy(update={"ppo_epochs": 2})))
    assert one < both < 2 * one and both - one > (longer - one) / 2  # the twins are one more rollout of 40 forwards, an epoch is 16
    held = cost.estimate(alone.model_copy(update={"lagrange_rate": 1.0}), "cpu").seconds_per_episode
    assert both - one == pytest.approx(5 * (held - one)), "the base draws every fifth group too"


def test_an_evaluation_is_costed_by_all_the_sets_that_it_draws():
    from backend.evaluation.evaluate import TRIVIAL

    assert 2 + len(TRIVIAL) == cost.EVALUATED_SETS
    with_it, without = (cost.estimate(TrainConfig(eval_images=images)) for images in (64, 0))
    assert without.evaluation_seconds == 0 and with_it.seconds_total - without.seconds_total == pytest.approx(with_it.evaluation_seconds)
    group = cost.estimate(TrainConfig(eval_images=0, ppo_epochs=1)).startup_seconds - cost.constants()["embedded"]["cpu"]["startup_seconds"]
    assert with_it.evaluation_seconds > 4 * 64 / 25 * group, "a group and a sample are 25 images that are drawn and scored"


def test_a_policy_that_is_plugged_in_can_be_costed(monkeypatch):
    monkeypatch.setitem(POLICIES._entries, "OF_A_PLUG_IN", POLICIES.get("DIVERSITY_POLICY"))
    assert cost.estimate(TrainConfig().model_copy(update={"mode": "OF_A_PLUG_IN"})).seconds_total > 0


def test_an_edited_setting_moves_the_estimate():
    plain = cost.estimate(TrainConfig())
    assert plain.seconds_total > 200 * plain.seconds_per_episode * 0.99 and plain.memory_gib > 0.5 and "an episode" in plain.text
    assert cost.estimate(TrainConfig(images_per_prompt=4)).seconds_per_episode > 1.7 * plain.seconds_per_episode
    assert cost.estimate(TrainConfig(ppo_epochs=4)).seconds_per_episode > 1.3 * plain.seconds_per_episode
    assert cost.estimate(TrainConfig(micro_batch=1)).memory_gib < plain.memory_gib
    assert cost.estimate(TrainConfig(threads=1), "cpu").seconds_per_episode > cost.estimate(TrainConfig(threads=4), "cpu").seconds_per_episode
    assert cost.estimate(TrainConfig(base_model="owner/large")).memory_gib > plain.memory_gib


def test_memory_holds_the_way_back_through_a_full_size_decoder():
    little = TrainConfig(base_model="owner/large", micro_batch=1, prompts_per_group=2, images_per_prompt=2)
    weights = cost.constants()["sd15"]["cuda"]["base_gib"]
    assert cost.estimate(little).memory_gib == weights + 5.7  # one image of 512 x 512 and its graph
    assert weights + 3.0 < cost.estimate(little.model_copy(update={"gradient_checkpointing": True})).memory_gib < weights + 3.2  # its largest block remains
    assert cost.estimate(little.model_copy(update={"pathwise": 0.0, "mode": "DIVERSITY_POLICY"})).memory_gib == weights + 1.5  # two images, without a graph


def test_memory_holds_the_way_back_of_a_policy_that_replays_no_unet():
    config = TrainConfig(mode="DIVERSITY_POLICY")
    assert cost.estimate(config).memory_gib > cost.estimate(config.model_copy(update={"pathwise": 0.0})).memory_gib


@pytest.mark.parametrize("name", ["one_gpu_sd15", "many_gpus"])
def test_a_large_preset_fits_the_memory_that_it_names(name):
    preset = load_preset(name)
    share = make_config({**preset["values"], "base_model": "owner/large", "prompts_per_group": 8})  # of one GPU of four
    assert cost.estimate(share).memory_gib <= preset["memory_gib"] <= 16


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_learning_rate_schedules_are_those_of_transformers(kind):
    from transformers import get_scheduler

    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(kind, optimiser, num_warmup_steps=0, num_training_steps=10)
    for episode in range(1, 11):
        assert 0 < lr_factor(kind, episode, 10) == pytest.approx(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()


@pytest.mark.parametrize(("algorithm", "asked", "region"), [("PPO", 1.6, None), ("TRPO", 1.6, 0.8), ("TRPO", 0.0, 25.0)])
def test_half_way_everything_that_makes_a_step_long_is_halved(algorithm, asked, region):
    """TRPO's steps are as long as the trust region of its clip range, the mode's own (here 50 nats) where the settings say 0."""
    config = TrainConfig(algorithm=algorithm, clip_range_nats=asked, episodes=10, lr_scheduler="linear")
    told = {}
    agent = SimpleNamespace(set_knob=told.__setitem__, clip_nats_of=lambda c: c.clip_range_nats or 50.0)
    anneal(config, 6, agent, config)
    assert told == pytest.approx(
        {"learning_rate": config.learning_rate / 2, "learning_rate_critic": config.learning_rate_critic / 2} | ({} if region is None else {"clip_range_nats": region})
    )
