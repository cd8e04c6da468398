"""Realism and prompt relevance as constraints: when their weights grow, when they fall back, and that they act."""

from types import SimpleNamespace

import pytest
import torch

from backend.config import TrainConfig
from backend.training.multipliers import Multipliers
from backend.training.progress import Progress
from backend.training.trainer import train
from tests.training.fake_learner import FakeReward, fake_build, finished, rows, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import StopAt

BASE = {"score": 0.0, "quality": 0.2, "adherence": None}


def held(**values) -> tuple[Multipliers, Progress, TrainConfig]:
    config, progress = TrainConfig(quality_weight=0.4, **values), Progress()
    return Multipliers(config, progress), progress, config


def group(reward, *quality: float, **more: list[float]) -> tuple:
    return reward, SimpleNamespace(raw_components={"quality": torch.tensor(quality), **{name: torch.tensor(values) for name, values in more.items()}}), BASE


@pytest.fixture
def reward() -> SimpleNamespace:
    weights: dict[str, float] = {}
    return SimpleNamespace(normalisers={name: SimpleNamespace(std=0.5) for name in ("quality", "adherence")}, set_weight=weights.__setitem__, weights=weights)


def test_the_weight_grows_by_what_is_lacking_and_falls_back_to_the_settings(reward):
    multipliers, progress, config = held(lagrange_rate=0.2, lagrange_slack=0.1)
    multipliers.apply(reward, config)
    assert reward.weights == {}, "nothing was learned yet"
    multipliers.learn(*group(reward, -0.2, 0.0))  # the base has 0.2; 0.3 lacking is 0.6 of the standard deviation
    multipliers.apply(reward, config)
    assert reward.weights == {"quality": pytest.approx(0.4 + 0.2 * (0.6 - 0.1))}
    multipliers.learn(*group(reward, 0.2, 0.2))
    assert progress.multipliers["quality"] == pytest.approx(0.1 - 0.2 * 0.1), "at the base's level the slack is what it falls by"
    for _ in range(3):
        multipliers.learn(*group(reward, 1.0, 1.0))
    assert progress.multipliers["quality"] == 0 and multipliers.apply(reward, config) == {"quality": 0.4, "adherence": 0.0}


def test_what_has_no_level_of_the_base_or_no_number_is_left_alone(reward):
    multipliers, progress, _ = held()
    multipliers.learn(*group(reward, float("nan"), 0.0, adherence=[0.1, 0.2]))
    multipliers.learn(reward, SimpleNamespace(raw_components={}), BASE)  # bonuses are switched off
    assert progress.multipliers == {}


class Unreal(FakeReward):
    """The policy's pictures are less real than the base's, which a weight cannot mend."""

    def __call__(self, images, captions, prompt_index):
        result = super().__call__(images, captions, prompt_index)
        self.normalisers = {"quality": SimpleNamespace(std=1.0)}
        result.raw_components["quality"] = torch.full((len(images),), -0.5)
        return result

    def probe(self, images, captions):
        return {"score": self.score_set(images, captions), "quality": 0.0, "adherence": None}

    def set_weight(self, name, value):
        assert name == "quality"


def test_a_run_raises_the_weight_and_tells_it(store, monkeypatch):
    monkeypatch.setattr("tests.training.fake_learner.FakeReward", Unreal)
    run = finished(store, small_config(episodes=11, quality_weight=0.4, lagrange_rate=0.1, lagrange_slack=0.0))[0]
    table = rows(run, "policy_updates")
    assert [float(row["weight_quality"]) for row in table] == pytest.approx([0.4] * 5 + [0.45] * 5 + [0.5])
    assert {row["weight_adherence"] for row in table} == {"0.0"}


def test_the_base_draws_the_same_prompts_and_seeds_under_the_same_conditions(store, monkeypatch):
    monkeypatch.setattr("tests.training.fake_learner.FakeReward", Unreal)
    built: list = []
    finished(store, small_config(episodes=6, lagrange_rate=1.0, curriculum="guidance", curriculum_episodes=20, probe_every=0), keep=built)
    drawn = [(episode, seeds) for episode, seeds, base in built[0].agent.rolled if episode == 5]
    assert len(drawn) == 2 and drawn[0] == drawn[1] and [base for episode, _, base in built[0].agent.rolled if episode == 5] == [False, True]


def test_rate_zero_keeps_the_weights_and_draws_nothing_more(store, monkeypatch):
    monkeypatch.setattr("tests.training.fake_learner.FakeReward", Unreal)
    built: list = []
    run = finished(store, small_config(episodes=6, quality_weight=0.4), keep=built)[0]
    assert {row["weight_quality"] for row in rows(run, "policy_updates")} == {"0.4"}
    assert len([1 for episode, _, _ in built[0].agent.rolled if episode == 5]) == 1


def test_stopped_anywhere_in_an_episode_that_the_base_draws_too_it_goes_on_exactly(store, monkeypatch):
    monkeypatch.setattr("tests.training.fake_learner.FakeReward", Unreal)
    config = small_config(episodes=7, lagrange_rate=1.0, probe_every=0, save_every=100)
    whole = finished(store, config)[0]
    reached = []
    for question in range(54, 76, 2):
        run, state = finished(store, config, lambda run, at=question: StopAt(run, at))
        assert state == "stopped"
        reached.append(run.status().episode)
        train(config, run, build=fake_build())
        assert fingerprint(run)["policy_updates.csv"] == fingerprint(whole)["policy_updates.csv"]
    assert reached.count(4) >= 6 and reached[-1] >= 5, reached
