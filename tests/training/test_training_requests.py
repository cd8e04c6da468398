"""What a trainer is asked while it trains: pauses, samples, changes, and what came too late."""

import json
import threading
import time

import pytest

from backend.analysis.figures import marks
from backend.training.control import Control
from backend.training.episodes import EpisodeLoop
from backend.training.trainer import train
from components.feed import RunFeed
from tests.training.fake_learner import fake_build, rows, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import StopAt, answers, in_background, wait_for


def test_pause_save_sample_change_and_go_on(store):
    run, thread = in_background(store, small_config(episodes=2000, sample_every=5000, save_every=5000, probe_every=0), step_seconds=0.001)
    wait_for(lambda: run.status().episode >= 2)
    pause = run.request("pause")
    wait_for(lambda: run.status().state == "paused")
    at = run.status().episode
    time.sleep(0.25)
    assert run.status().episode == at and answers(run)[pause]["accepted"]
    change = run.request("change", {"field": "learning_rate", "value": 0.5})
    wait_for(lambda: change in answers(run))
    run.request("save_now")
    run.request("sample_now")
    run.request("resume")
    wait_for(lambda: run.status().episode > at + 1 and run.images()[-1].episode > 0)
    run.request("stop")
    thread.join(150)
    assert run.status().state == "stopped"
    changes = [e for e in run.events() if e["kind"] == "change"]
    assert [(c["field"], c["value"], c["old"], c["episode"]) for c in changes] == [("learning_rate", 0.5, 0.01, at + 1)]
    rates = {int(r["episode"]): float(r["learning_rate"]) for r in rows(run, "policy_updates")}
    assert rates[at] == 0.01 and rates[at + 1] == 0.5
    assert (run.images()[-1].episode, [c.episode for c in run.checkpoints()][1]) == (at + 1, at + 1)


def test_rubbish_and_twenty_requests_at_once_are_all_answered(store):
    run, thread = in_background(store, small_config(episodes=2000, sample_every=5000), step_seconds=0.001)
    wait_for(lambda: run.status().episode >= 1)
    (run.control_dir / "bad.json").write_text("{")
    refused = [run.request("change", {"field": f, "value": v}) for f, v in [("episodes", 3), ("learning_rate", 1e9), ("x", 1), ("eta", None)]]
    sent = [run.request(("save_now", "sample_now", "pause", "resume")[i % 4]) for i in range(20)]
    wait_for(lambda: {"bad", *refused, *sent} <= set(answers(run)))
    assert not any(answers(run)[r]["accepted"] for r in ("bad", *refused)) and all(answers(run)[r]["accepted"] for r in sent)
    run.request("stop")
    thread.join(150)
    assert run.status().state == "stopped" and list(run.control_dir.iterdir()) == []


class Asked(Control):
    """Asks three things amid an episode and remembers what the status says after each was read."""

    seen = ()

    def should_stop(self):
        if not self.seen and self.run.status().episode == 2:
            for kind in ("pause", "resume", "stop"):
                self.run.request(kind)
                self.poll(at_once=True)
                self.seen = (*self.seen, self.run.status().requested)
        return self.stopping


def test_what_was_read_and_not_done_yet_stands_in_the_status(store):
    config = small_config()
    run = store.create(config)
    control = Asked(run)
    assert train(config, run, control, build=fake_build()) == "stopped"
    assert control.seen == ("pause", "", "stop") and run.status().requested == ""


@pytest.mark.parametrize("paused", [True, False])
def test_a_change_that_no_episode_took_before_the_stop_is_applied_on_resume(store, paused):
    config = small_config(episodes=2000, sample_every=5000, save_every=5000, probe_every=0)
    run = store.create(config)
    control = Control(run)
    thread = threading.Thread(target=train, args=(config, run, control), kwargs={"build": fake_build(step_seconds=0.02)}, daemon=True)
    thread.start()
    wait_for(lambda: run.status().episode >= 1)
    if paused:
        run.request("pause")
        wait_for(lambda: run.status().state == "paused")
    change = run.request("change", {"field": "learning_rate", "value": 0.5})
    run.request("stop")
    thread.join(150)
    at = run.status().episode
    assert answers(run)[change]["accepted"] and run.status().state == "stopped"
    assert [(e["field"], e["value"], e["old"], e["episode"]) for e in run.events() if e["kind"] == "change"] == [("learning_rate", 0.5, 0.01, at + 1)]
    train(config, run, StopAt(run, 60), build=fake_build())
    rates = [float(r["learning_rate"]) for r in rows(run, "policy_updates")]
    assert len(rates) > at and rates == [0.01] * at + [0.5] * (len(rates) - at)


def test_a_change_while_the_model_loads_is_kept_when_the_run_is_stopped_before_its_first_episode(store):
    config = small_config(episodes=8)
    run = store.create(config)
    run.request("change", {"field": "learning_rate", "value": 0.5})
    run.request("stop")
    assert train(config, run, build=fake_build()) == "stopped"
    train(config, run, build=fake_build())
    assert [float(r["learning_rate"]) for r in rows(run, "policy_updates")] == [0.5] * 8


def test_after_the_last_episode_only_stop_is_obeyed(store, monkeypatch):
    config = small_config(episodes=3, eval_images=8)
    run, sent = store.create(config), {}

    def evaluate(run, should_stop, **others):
        sent.update({kind: run.request(kind, {"field": "learning_rate", "value": 0.5} if kind == "change" else None) for kind in ("pause", "save_now", "sample_now", "change")})
        wait_for(lambda: should_stop() or set(sent.values()) <= set(answers(run)))

    monkeypatch.setattr("backend.evaluation.evaluate.evaluate_run", evaluate)
    assert train(config, run, build=fake_build()) == "completed"
    for kind, request in sent.items():
        answer = answers(run)[request]
        assert not answer["accepted"] and answer["message"].startswith(f"{kind.replace('_', ' ')} came after the last episode"), answer
    assert not [e for e in run.events() if e["kind"] == "change"]


def test_while_it_is_evaluated_a_run_says_so_and_how_long_that_takes(store, monkeypatch):
    config = small_config(episodes=5, eval_images=8)
    run, seen = store.create(config), []

    def evaluate(run, progress, **others):
        seen.append(run.status())
        progress("drawing the base", 0.5)
        wait_for(lambda: run.status().step == 50)
        seen.append(run.status())

    monkeypatch.setattr("backend.evaluation.evaluate.evaluate_run", evaluate)
    monkeypatch.setattr("backend.training.progress.Pace.evaluation", lambda pace: 600.0)
    assert train(config, run, build=fake_build()) == "completed"
    first, later = seen
    assert first.message.startswith("All episodes are done; judging 8 images") and first.state == "running" and first.eta_seconds == 600.0
    assert 0 < later.eta_seconds < 600.0 and later.phase == "evaluating: drawing the base"
    assert run.status().eta_seconds is None and run.status().message == "completed after 5 of 5 episodes"


@pytest.mark.parametrize(("images", "judged"), [(8, True), (1024, False)])
def test_the_evaluation_at_the_end_replaces_none_of_more_images(store, monkeypatch, images, judged):
    """A run that was stopped, evaluated by a person and resumed keeps what that took."""
    run, calls = store.create(small_config(episodes=2, eval_images=8)), []
    run.evaluation_path.write_text(json.dumps({"images": images, "checkpoint": "episode_000001"}))
    monkeypatch.setattr("backend.evaluation.evaluate.evaluate_run", lambda run, **others: calls.append(run))
    assert train(run.config, run, build=fake_build()) == "completed"
    said = [e["message"] for e in run.events() if e["kind"] == "alert" and "stays" in e["message"]]
    assert bool(calls) == judged and bool(said) != judged
    assert judged or ("episode_000001 with 1,024 images stays" in said[0] and "--replace" in said[0])


class Pausing(Control):
    """Takes a while before each episode, as a pause or a loan of the device does."""

    def turnover(self):
        time.sleep(0.5)
        return super().turnover()


def test_what_follows_an_episode_counts_for_the_time_left_and_a_pause_does_not(store, monkeypatch):
    turns, whole = [], EpisodeLoop.between
    monkeypatch.setattr(EpisodeLoop, "between", lambda loop, number: (time.sleep(0.05), whole(loop, number)))
    monkeypatch.setattr("backend.training.progress.Pace.add_turn", lambda pace, seconds: turns.append((seconds, pace.durations[-1])))
    config = small_config(episodes=3, probe_every=0, sample_every=100)
    run = store.create(config)
    assert train(config, run, Pausing(run), build=fake_build()) == "completed"
    assert len(turns) == 3 and all(0.05 < seconds - episode < 0.5 for seconds, episode in turns[1:])


class Late(Control):
    """Asks for a change and a pause as the last episode begins."""

    def turnover(self):
        going = super().turnover()
        if self.run.status().episode == 2:
            self.run.request("change", {"field": "learning_rate", "value": 0.5})
            self.run.request("pause")
        return going


def test_what_was_asked_for_in_the_last_episode_is_said_to_be_too_late(store):
    config = small_config(episodes=3)
    run = store.create(config)
    control = Late(run)
    assert train(config, run, control, build=fake_build(step_seconds=0.05)) == "completed"
    said = [e["message"] for e in run.events() if e["kind"] == "alert"]
    assert len(answers(run)) == 2 and any("learning_rate stays 0.01: it was asked for in the last episode" in s for s in said) and any("pause is not held" in s for s in said)


class Changing(Control):
    """Asks for other live settings after episode 5."""

    def turnover(self):
        if self.run.status().episode == 5 and not answers(self.run):
            self.run.request("change", {"field": "learning_rate", "value": 0.2})
            self.run.request("change", {"field": "diversity_weight", "value": 3.0})
        return super().turnover()


class Killed(Changing):
    """The same, and dead after episode 7."""

    def turnover(self):
        if self.run.status().episode == 7:
            raise KeyboardInterrupt
        return super().turnover()


@pytest.mark.parametrize("kind, before, after", [("constant", [0.01] * 5, [0.2] * 3), ("linear", [0.01 * (8 - n) / 8 for n in range(5)], [0.2 * (8 - n) / 8 for n in range(5, 8)])])
def test_live_changes_after_the_checkpoint_are_replayed_on_resume(store, kind, before, after):
    """A run is changed in episode 6 and killed in episode 8, whose last checkpoint is the one after episode 4."""
    config = small_config(episodes=8, save_every=4, lr_scheduler=kind)
    whole, run = store.create(config), store.create(config)
    train(config, whole, Changing(whole), build=fake_build())
    with pytest.raises(KeyboardInterrupt):
        train(config, run, Killed(run), build=fake_build())
    assert run.checkpoints()[-1].episode == 4
    train(config, run, build=fake_build())
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(whole)["policy_updates.csv"]
    assert fingerprint(run)["checkpoint"] == fingerprint(whole)["checkpoint"]
    assert [float(r["learning_rate"]) for r in rows(run, "policy_updates")] == pytest.approx(before + after)


class ChangedAgain(Control):
    """Asks for another rate after episode 4, and dies after episode 7."""

    def turnover(self):
        if self.run.status().episode == 4:
            self.run.request("change", {"field": "learning_rate", "value": 0.003})
        if self.run.status().episode == 7:
            raise KeyboardInterrupt
        return super().turnover()


def test_a_change_after_a_resume_overrules_the_older_ones_of_later_episodes(store):
    """Changed in episode 6 and killed; resumed from 4 and changed for episode 5, killed again before a checkpoint, and resumed once more."""
    config = small_config(episodes=8, save_every=4)
    run = store.create(config)
    for control in (Killed(run), ChangedAgain(run)):
        with pytest.raises(KeyboardInterrupt):
            train(config, run, control, build=fake_build())
    expected = [0.01] * 4 + [0.003] * 4
    assert [float(r["learning_rate"]) for r in rows(run, "policy_updates")] == expected[:7]
    assert train(config, run, build=fake_build()) == "completed"
    assert [float(r["learning_rate"]) for r in rows(run, "policy_updates")] == expected
    feed = RunFeed(run, "runs", None)
    feed.refresh()
    assert feed.parts["knobs"]["learning_rate"] == 0.003 and feed.parts["knobs"]["diversity_weight"] == 3.0
    assert [(c["field"], c["episode"]) for c in feed.changes()] == [("diversity_weight", 6), ("learning_rate", 5)]
    assert [mark["x0"] for mark in marks(run)] == [6, 5]
