"""Caps of a public demo: what a run draws, and how many wait."""

from pathlib import Path

import pytest

from backend.config import make_config
from backend.errors import InputError
from backend.runs import new_owner
from backend.training.limits import Limits, measuring_images, probed_images, sampled_images
from backend.training.manager import Manager
from tests.training.fake_learner import SMALL, fake_build
from tests.training.steering import state, wait_for

ROOT = Path(__file__).resolve().parents[2]
LONG = {**SMALL, "episodes": 3000, "probe_every": 0, "sample_every": 5000, "executor": "thread"}


def test_limits_of_a_demo(store):
    manager = Manager(store, limits=Limits(max_episodes=5000, max_images=20_000, max_queue=2, runs_per_owner=2), build=fake_build(step_seconds=0.001), trust_paths=False)
    owner = new_owner()
    with pytest.raises(InputError, match="at most 5000"):
        manager.start({**LONG, "episodes": 6000})
    with pytest.raises(InputError, match="at most 20000"):
        manager.start({**LONG, "images_per_prompt": 8})
    with pytest.raises(InputError, match="may not set base_model"):
        manager.start({**LONG, "base_model": "someone/model"})
    ids = [manager.start(LONG, owner).run_id for _ in range(2)]
    with pytest.raises(InputError, match="allows 2: stop one"):
        manager.start(LONG, owner)
    wait_for(lambda: manager.active() == ids[0])
    manager.start(LONG)
    with pytest.raises(InputError, match="no more than 2 may"):
        manager.start(LONG)
    assert manager.shutdown(150)
    assert [s.state for s in store.list()] == ["stopped"] * 3


def test_what_a_run_draws_beside_its_training_is_capped_too():
    limits = Limits(max_images=1600)
    given = {"episodes": 100, "probe_every": 25}
    config = make_config(given)
    limits.check_settings(config)  # 1600 images at 10 steps, and 120 of probes, 198 of samples, 256 of the evaluation
    assert (probed_images(config), sampled_images(config), measuring_images(config)) == (120, 198, 574)
    for values, field in [({"eval_images": 321}, "eval_images"), ({"probe_images": 213}, "probe_images"), ({"probe_every": 1, "probe_images": 13}, "probe_images"),
                          ({"sample_every": 1, "eval_images": 141}, "sample_every"), ({"num_inference_steps": 30}, "num_inference_steps"),
                          ({"num_inference_steps": 26, "lagrange_rate": 1.0}, "num_inference_steps"),
                          ({"num_inference_steps": 1000, "episodes": 2}, "num_inference_steps")]:  # fmt: skip
        with pytest.raises(InputError, match="at most") as refused:
            limits.check_settings(make_config({**given, **values}))
        assert refused.value.field == field, values
    for values in ({"eval_images": 320}, {"num_inference_steps": 29}, {"num_inference_steps": 25, "lagrange_rate": 1.0}, {"probe_every": 0, "probe_images": 4096}):
        limits.check_settings(make_config({**given, **values}))


def test_what_updates_cost_is_capped_too():
    """Images and steps alone let a run of ten days through: replay and epochs draw nothing."""
    limits = Limits(max_episodes=100, max_images=1600, max_minutes=60)
    limits.check_settings(make_config({"episodes": 100}))
    limits.check_settings(make_config({"episodes": 100, "mode": "SCHEDULER_POLICY"}))
    for values in ({"ppo_epochs": 64, "replay_groups": 64, "target_kl_nats": 1e6, "learning_rate": 1e-9}, {"mode": "DIVERSITY_POLICY", "ppo_epochs": 64, "replay_groups": 64}):
        config = make_config({"episodes": 100, **values})
        Limits(max_episodes=100, max_images=1600).check_settings(config)
        with pytest.raises(InputError, match=r"h in all by the estimate: this server allows at most 60 min; lower .*ppo_epochs, replay_groups") as refused:
            limits.check_settings(config)
        assert refused.value.field == "episodes"


def test_a_new_run_removes_the_oldest_of_those_that_ended(store):
    manager = Manager(store, limits=Limits(keep_runs=2), build=fake_build(step_seconds=0.001))
    ended = []
    for _ in range(3):
        ended.append(manager.start({**SMALL, "episodes": 2, "executor": "thread"}).run_id)
        assert manager.wait_until_idle(150)
    assert len(store.runs()) == 3, "two that had ended when the third began"
    going = manager.start(LONG).run_id
    wait_for(lambda: state(manager, going) == "running")
    assert {run.id for run in store.runs()} == {*ended[1:], going}
    last = manager.start({**LONG, "episodes": 2}).run_id
    assert {run.id for run in store.runs()} == {*ended[1:], going, last}, "what trains or waits is not counted and stays"
    manager.stop(going)
    assert manager.wait_until_idle(150) and manager.shutdown(150)


def test_a_resumed_run_needs_a_place_like_a_new_one(store):
    manager = Manager(store, limits=Limits(max_queue=1, runs_per_owner=1), build=fake_build(step_seconds=0.001))
    owner = new_owner()
    first, _ = manager.start(LONG, owner)
    wait_for(lambda: state(manager, first) == "running")
    manager.stop(first, owner)
    assert manager.wait_until_idle(150)
    second, _ = manager.start(LONG, owner)
    wait_for(lambda: manager.active() == second)
    with pytest.raises(InputError, match="you have 1 runs"):
        manager.resume(first, owner)
    manager.start(LONG)
    with pytest.raises(InputError, match="1 runs wait already"):
        manager.resume(first)
    assert state(manager, first) == "stopped" and manager.shutdown(150)
