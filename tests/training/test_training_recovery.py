"""Updates that are not finite: skipped, counted, told; three in a row restore what was before them at half the pace."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from backend.training.checkpoint import read_checkpoint
from backend.training.trainer import train
from tests.training.fake_learner import fake_build, finished, rows, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import StopAt


def test_a_nan_stops_the_update_not_the_run(store):
    run, state = finished(store, small_config(), nan_from=(3, 6))
    assert state == "completed" and run.status().skipped == 2
    assert len([e for e in run.events() if e["kind"] == "alert" and "not a finite number" in e["message"]]) == 2
    assert {r["learning_rate"] for r in rows(run, "policy_updates")} == {"0.01"}


def test_three_nans_in_a_row_restore_the_last_checkpoint_at_half_the_rate(store):
    sessions = []
    run, state = finished(store, small_config(save_every=4), nan_from=(6, 7, 8), keep=sessions)
    assert state == "completed" and run.status().skipped == 3
    rates = [float(r["learning_rate"]) for r in rows(run, "policy_updates")]
    assert rates == [0.01] * 8 + [0.005] * 4
    assert any("episode_000004 is restored" in e["message"] and "0.005" in e["message"] for e in run.events() if e["kind"] == "alert")
    assert sessions[0].agent.config.learning_rate_critic == pytest.approx(5e-4)
    states = {info.episode: read_checkpoint(info.path) for info in run.checkpoints()}
    for part in (lambda state: state["agent"]["tensors"], lambda state: {"memory": state["reward"]["memory"]}):
        old, restored, later = (part(states[episode]) for episode in (4, 8, 12))
        assert all(torch.equal(old[name], restored[name]) for name in old) and not any(torch.equal(old[name], later[name]) for name in old)


def test_a_checkpoint_from_amid_the_bad_updates_is_not_what_is_restored(store):
    run, _ = finished(store, small_config(save_every=1), nan_from=(6, 7, 8))
    assert any("episode_000005 is restored" in e["message"] for e in run.events() if e["kind"] == "alert")


def test_damage_that_leaves_a_step_to_take_is_told_and_restores_nothing(store):
    config, sessions = small_config(), []

    def partly(config, say):
        sessions.append(fake_build()(config, say))
        whole = sessions[0].agent.update

        def update(*given, **named):
            stats = whole(*given, **named).to_dict()
            return SimpleNamespace(to_dict=lambda: stats | {"skipped_nonfinite": 1.0})

        sessions[0].agent.update = update
        return sessions[0]

    run = store.create(config)
    assert train(config, run, build=partly) == "completed" and run.status().skipped == 0
    told = [e["message"] for e in run.events() if e["kind"] == "alert"]
    assert len([m for m in told if "left out of that step" in m]) == 12 and not any("restored" in m for m in told)


def test_with_trpo_it_is_the_trust_region_that_shrinks(store):
    """Half of what was asked for, whatever the schedule has left of it."""
    run = store.create(small_config(episodes=12, save_every=2, algorithm="TRPO", clip_range_nats=1.6, lr_scheduler="linear"))
    train(run.config, run, build=fake_build(nan_from=(5, 6, 7)))
    assert any("half the clip range (0.8 nats)" in e["message"] for e in run.events() if e["kind"] == "alert")


def test_recovery_halves_the_rate_that_falls(store):
    run, _ = finished(store, small_config(episodes=12, save_every=4, lr_scheduler="cosine"), nan_from=(6, 7, 8))
    rates = np.array([float(r["learning_rate"]) for r in rows(run, "policy_updates")])
    wave = 0.01 * (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
    assert rates[:8] == pytest.approx(wave[:8]) and rates[8:] == pytest.approx(wave[8:] / 2)


@pytest.mark.parametrize("question", [80, 85, 90, 95])
def test_a_run_that_recovered_from_nan_resumes_exactly(store, question):
    """Stopped before, amid and after the three bad updates."""
    config = small_config(save_every=4)
    whole, _ = finished(store, config, nan_from=(6, 7, 8))
    run, _ = finished(store, config, nan_from=(6, 7, 8), control=lambda run: StopAt(run, question))
    train(config, run, build=fake_build(nan_from=(6, 7, 8)))
    assert fingerprint(run) == fingerprint(whole)
