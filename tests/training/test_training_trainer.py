"""The episode loop: what it writes, exact resume, live changes, pauses, NaN, failures."""

import json

import numpy as np
import pytest
import torch

from backend.analysis.alerts import Alert
from backend.analysis.series import columns, probe_gains, probes, steady
from backend.errors import InputError
from backend.runs.tables import TABLES
from backend.training.checkpoint import damage
from backend.training.control import Control
from backend.training.seeds import BASE_GROUPS, choose_group
from backend.training.trainer import explain_failure, train
from tests.training.fake_learner import FakeReward, fake_build, finished, rows, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import StopAt, answers, in_background, wait_for


def test_a_run_writes_every_table_once_per_episode_or_image(store):
    run, state = finished(store, small_config())
    assert state == "completed" and (run.status().state, run.status().episode) == ("completed", 12)
    counts = {"policy_updates": 12, "gradient_log": 12, "memory_usage": 12, "training_log": 48, "reward_components": 48, "log_probability": 96}
    assert {name: len(rows(run, name)) for name in TABLES} == counts
    for name, wanted in TABLES.items():
        assert list(rows(run, name)[0])[: len(wanted)] == list(wanted)
    assert [int(r["episode"]) for r in rows(run, "policy_updates")] == list(range(1, 13))


def test_the_curve_is_the_raw_group_score_and_the_levels_stand_beside_it(store):
    sessions = []
    run, _ = finished(store, small_config(), keep=sessions)
    table, session = rows(run, "policy_updates"), sessions[0]
    first = [r for r in rows(run, "training_log") if r["episode"] == "1"]
    images = session.agent.rollout(session.train_embeds[[0]], [int(r["seed"]) for r in first], base=True).images
    assert float(table[0]["batch_score"]) == session.make_reward(None).score_set(images, [])
    assert table[0]["reference_level"] == "" and float(table[1]["reference_level"]) > 0
    levels = [r["base_level"] for r in table]  # one group at once, two more after the first episode, one more every ten
    assert len(set(levels[1:10])) == len(set(levels[10:])) == 1 and len(set(levels)) == 3
    drawn = [choose_group(run.config, len(session.train_prompts), BASE_GROUPS + number) for number in range(4)]
    bases = [session.agent.rollout(session.train_embeds[index], seeds, 0, base=True).images for index, seeds in drawn]
    assert float(levels[-1]) == pytest.approx(np.mean([session.make_reward(None).score_set(images, []) for images in bases]))
    assert [r["episode"] for r in table if r["probe_score"]] == ["5", "10"]
    assert float(table[-1]["best_score"]) == max(float(r["batch_score"]) for r in table) == run.status().best_score
    told = [e for e in run.events() if e["kind"] == "probe"]
    assert [e["episode"] for e in told] == [0, 5, 10]
    assert told[0]["score"] == told[0]["base"] and all(isinstance(e["quality"], float) and e["adherence"] is None for e in told)
    gains = probe_gains(told, {name: [r[name] and float(r[name]) or None for r in table] for name in ("episode", "probe_score", "probe_quality", "probe_adherence")})
    assert [i + 1 for i, gain in enumerate(gains["gain_score"]) if gain is not None] == [5, 10] and gains["gain_none"] == [0.0] * 12
    assert gains["gain_quality"][9] == pytest.approx(told[2]["quality"] - told[0]["quality"]) and gains["gain_adherence"] == [None] * 12


def test_samples_keep_their_seeds_and_carry_credit_and_explanation(store):
    run, _ = finished(store, small_config())
    samples = run.images()
    assert [s.episode for s in samples] == [0, 5, 10, 12]
    first, last = samples[0].read(), samples[-1].read()
    assert [(i["prompt"], i["seed"]) for i in first["images"]] == [(i["prompt"], i["seed"]) for i in last["images"]] and len(first["images"]) == 8
    assert {"credit", "raw_credit", "components", "explanation", "box"} <= set(first["images"][0])
    assert samples[0].png.read_bytes() != samples[-1].png.read_bytes()


def test_only_the_policy_changes_from_grid_to_grid(store):
    """Not the guidance of a curriculum, nor a window that moves: without learning all grids are one."""
    sessions = []
    still = {"learning_rate": 1e-12, "curriculum": "guidance", "curriculum_episodes": 10, "window_mode": "sliding"}
    run, _ = finished(store, small_config(**still), keep=sessions)
    assert float(rows(run, "policy_updates")[0]["guidance_scale"]) == pytest.approx(0.3 * run.config.guidance_scale)
    assert len({s.png.read_bytes() for s in run.images()}) == 1
    assert len({json.dumps(s.read()["score"]) for s in run.images()}) == 1
    bases = [episode for episode, seeds, base in sessions[0].agent.rolled if base and episode is not None]
    assert bases == [0, 1, 2, 3]  # base groups have the windows of the first episodes, so that the level is of all of them


def test_where_the_queue_counts_no_base_group_is_its_own_company(store, monkeypatch):
    monkeypatch.setattr(FakeReward, "scores_alone", False)
    sessions = []
    run, _ = finished(store, small_config(), keep=sessions)
    drawn = [seeds for episode, seeds, base in sessions[0].agent.rolled if base and episode is not None]
    wanted = [tuple(choose_group(run.config, 5, BASE_GROUPS + number)[1]) for number in (0, 24, 1, 2)]
    assert drawn == wanted  # the first fills the queue, another stands for it in the level


def test_sampling_and_probing_leave_no_trace_in_the_training(store):
    with_samples, _ = finished(store, small_config(sample_every=1, probe_every=1))
    without, _ = finished(store, small_config(sample_every=100, probe_every=0))
    assert [r["batch_score"] for r in rows(with_samples, "policy_updates")] == [r["batch_score"] for r in rows(without, "policy_updates")]


def test_a_run_repeats_to_the_bit_and_another_seed_does_not(store):
    one, two, other = (finished(store, small_config(seed=s))[0] for s in (3, 3, 4))
    assert fingerprint(one) == fingerprint(two)
    assert [r["batch_score"] for r in rows(one, "policy_updates")] != [r["batch_score"] for r in rows(other, "policy_updates")]


@pytest.mark.parametrize("moment", [0, 3, 7, 9, 25, 40, 52, 53, 54, 60, 77])
def test_stopped_anywhere_and_resumed_is_as_never_stopped(store, moment):
    config = small_config()
    whole, _ = finished(store, config)
    run, state = finished(store, config, control=lambda run: StopAt(run, moment))
    assert state == run.status().state == "stopped" and run.status().episode < 12
    assert train(config, run, build=fake_build()) == "completed"
    assert fingerprint(run) == fingerprint(whole)
    assert run.status().attempt == 2


def test_a_stop_writes_a_checkpoint_of_all_completed_episodes(store):
    run, _ = finished(store, small_config(save_every=100), control=lambda run: StopAt(run, 62))
    assert run.checkpoints()[-1].episode == run.status().episode > 3


def test_resume_goes_back_over_a_damaged_checkpoint_and_says_so(store):
    config = small_config()
    whole, _ = finished(store, config)
    run, _ = finished(store, config, control=lambda run: StopAt(run, 75))
    newest = run.checkpoints()[-1]
    with open(newest.path / "trainer.safetensors", "rb+") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    train(config, run, build=fake_build())
    said = [e["message"] for e in run.events() if e["kind"] == "alert"]
    assert any(newest.name in s and "is used instead" in s for s in said)
    assert fingerprint(run) == fingerprint(whole)


def test_a_damaged_checkpoint_is_put_away_and_pushes_no_sound_one_out(store):
    """It would count as the newest, so that keep_last = 1 removed whatever was saved before its episode came again."""
    run, _ = finished(store, small_config(), control=lambda run: StopAt(run, 75))
    newest = run.checkpoints()[-1]
    (newest.path / "trainer.safetensors").write_bytes(b"")
    train(small_config(save_every=1, keep_last=1), run, StopAt(run, 12), build=fake_build())
    again = run.checkpoints()
    assert again[-1].episode == run.status().episode < newest.episode and all(damage(info.path) == "" for info in again)
    (kept,) = run.checkpoints_dir.glob(".damaged-*")
    assert any(f"is used instead; it is kept as checkpoints/{kept.name}" in e.get("message", "") for e in run.events())
    assert train(small_config(), run, build=fake_build()) == "completed" and kept.is_dir()


def test_all_checkpoints_damaged_begins_anew(store):
    config = small_config()
    whole, _ = finished(store, config)
    run, _ = finished(store, config, control=lambda run: StopAt(run, 60))
    for info in run.checkpoints():
        (info.path / "trainer.json").write_text("{}")
    train(config, run, build=fake_build())
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(whole)["policy_updates.csv"]
    assert any("begins anew" in e.get("message", "") for e in run.events())


class Guiding(Control):
    """Asks for another guidance in episode 6."""

    wanted = 9.5

    def turnover(self):
        if self.run.status().episode == 5 and not answers(self.run):
            self.run.request("change", {"field": "guidance_scale", "value": self.wanted})
        return super().turnover()


def test_after_a_change_of_guidance_the_base_is_measured_anew_and_the_trend_begins_again(store):
    config = small_config(episodes=12, probe_every=3)
    run, still = store.create(config), store.create(config)
    sessions = []
    train(config, run, Guiding(run), build=fake_build(keep=sessions))
    train(config, still, build=fake_build())
    before, after = rows(still, "policy_updates"), rows(run, "policy_updates")
    assert [r["trend_from"] for r in after] == ["1"] * 5 + ["6"] * 7 and {r["trend_from"] for r in before} == {"1"}
    # Every picture of the fake learner is brighter by 0.02 there, and so is its score.
    assert float(after[4]["base_level"]) == float(before[4]["base_level"])
    assert float(after[5]["base_level"]) == pytest.approx(float(before[5]["base_level"]) + 0.02, abs=0.004)
    again = [e for e in run.events() if e["kind"] == "probe" and e.get("renewed")]
    assert [e["episode"] for e in again] == [5] and again[0]["quality"] == pytest.approx([e for e in still.events() if e["kind"] == "probe"][0]["quality"] + 0.02, abs=0.004)
    assert probes(run)[0] == pytest.approx(probes(still)[0] + 0.02, abs=0.004) and len(probes(run)) == 4 and len(probes(still)) == 5
    data = columns(run, "policy_updates", ["batch_score", "trend_from"])
    assert steady(data).tolist() == data["batch_score"][5:].tolist()


def test_the_best_checkpoint_is_of_the_guidance_in_force(store):
    """At a lower guidance the fake learner's pictures are darker and score less: what came before does not compare, and stays on the disk."""

    class Lowering(Guiding):
        """Asks for less."""

        wanted = 1.5

    config = small_config(episodes=12, save_every=2, keep_last=20, learning_rate=1e-9)
    run = store.create(config)
    train(config, run, Lowering(run), build=fake_build())
    scores = [float(r["batch_score"]) for r in rows(run, "policy_updates")]
    assert min(scores[:5]) > max(scores[5:])
    kept = {c.episode: json.loads((c.path / "manifest.json").read_text()) for c in run.checkpoints()}
    assert kept[4]["score"] is None and kept[4]["score_before"] == pytest.approx(np.mean(scores[:4]))
    assert kept[6]["score"] == pytest.approx(scores[5]) and kept[12]["score"] == pytest.approx(np.mean(scores[5:]))
    assert [c.episode for c in run.checkpoints() if c.best] == [max((e for e in kept if e > 5), key=lambda e: (kept[e]["score"], e))]


@pytest.mark.parametrize("question", [66, 72, 78, 84])
def test_a_stop_amid_the_base_that_is_measured_anew_changes_nothing(store, question):
    config = small_config(episodes=8, probe_every=3)
    whole, run = store.create(config), store.create(config)
    train(config, whole, Guiding(whole), build=fake_build())

    class Stopped(Guiding, StopAt):
        """Asks, and is stopped at the given question: before, amid and after the base's groups."""

    train(config, run, Stopped(run, question), build=fake_build())
    assert run.status().state == "stopped"
    train(config, run, build=fake_build())
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(whole)["policy_updates.csv"] and probes(run) == probes(whole)


def test_a_curriculum_of_guidance_moves_neither_the_base_level_nor_the_probes(store):
    config = small_config(episodes=12, probe_every=3, learning_rate=1e-9)
    grown, still = store.create(config.model_copy(update={"curriculum": "guidance", "curriculum_episodes": 6})), store.create(config)
    for run in (grown, still):
        train(run.config, run, build=fake_build())
    of = [[(r["base_level"], r["probe_score"]) for r in rows(run, "policy_updates")] for run in (grown, still)]
    assert of[0] == of[1]
    assert [r["trend_from"] for r in rows(grown, "policy_updates")] == [str(n) for n in range(1, 8)] + ["7"] * 5


def test_a_failure_is_a_sentence_and_leaves_its_details_in_the_log(store):
    config = small_config()

    def broken(config, say):
        session = fake_build()(config, say)
        session.agent.update = lambda *a, **k: (_ for _ in ()).throw(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
        return session

    run = store.create(config)
    assert train(config, run, build=broken) == "failed"
    assert run.status().state == "failed" and run.status().error.startswith("Out of memory at 4 images a group: try micro_batch 1 or gradient checkpointing")
    assert "Traceback" in run.log_tail()
    assert train(config, run, build=fake_build()) == "completed"


def test_input_that_cannot_be_used_leaves_its_sentence_and_no_traceback(store):
    def broken(config, say):
        raise InputError("weights of the network are missing: run `make base-model`")

    run = store.create(small_config())
    with pytest.raises(InputError, match="weights"):
        train(run.config, run, build=broken)
    assert run.status().error.startswith("weights of the network") and "Traceback" not in run.log_tail()


def test_failures_name_a_remedy_that_the_settings_have():
    assert "images_per_prompt 1" in explain_failure(MemoryError(), small_config())
    assert "gradient checkpointing" not in explain_failure(MemoryError(), small_config(gradient_checkpointing=True))
    assert explain_failure(InputError("one line\nof two"), small_config()) == "one line of two"
    assert explain_failure(KeyError("x"), small_config()) == "KeyError: 'x' (log.txt has the details)"
    assert "micro_batch" in explain_failure(torch.OutOfMemoryError("x"), small_config())


def test_a_live_run_is_not_taken_over(store):
    run, thread = in_background(store, small_config(episodes=500), step_seconds=0.001)
    wait_for(lambda: run.status().state == "running")
    with pytest.raises(InputError, match="is running"):
        train(run.config, run, build=fake_build())
    run.request("stop")
    thread.join(150)
    assert run.status().attempt == 1


def test_logs_have_the_one_line_summaries_and_no_secret(store, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "prompt 0")
    run, _ = finished(store, small_config(metric="MMD"))
    log = run.log_path.read_text()
    assert "Training 192 parameters in LORA_UNET mode (PPO)" in log
    assert f"Episode 10/12: reward={float(rows(run, 'policy_updates')[9]['batch_score']):.4f}, actor_loss=" in log
    assert "Episode 1/12" in log and "Episode 12/12" in log and "Episode 9/12" not in log


def test_the_config_can_be_loaded_again_and_names_no_token(store, monkeypatch):
    from backend.config import read_config_file

    monkeypatch.setenv("HF_TOKEN", "hf_thisisaverysecrettoken")
    run, _ = finished(store, small_config(note="mine"))
    assert read_config_file(run.config_path)["note"] == "mine"
    everything = b"".join(p.read_bytes() for p in run.path.rglob("*") if p.is_file())
    assert b"thisisaverysecrettoken" not in everything


def test_a_warning_that_passes_is_told_and_every_attempt_tells_its_beginning(store, monkeypatch):
    seen = iter([["plateau"], ["plateau"], []])
    found = {"plateau": Alert("plateau", "the score has not risen", {})}
    monkeypatch.setattr("backend.training.episodes.alerts.of_run", lambda run: [found[kind] for kind in next(seen)])
    run, _ = finished(store, small_config(episodes=30))
    told = [(e["kind"], e["alert"], e["episode"]) for e in run.events() if "alert" in e]
    assert told == [("alert", "plateau", 10), ("alert_passed", "plateau", 30)]
    first = run.events()[0]
    assert (first["kind"], first["state"], first["episode"], first["attempt"]) == ("status", "starting", 0, 1)


def test_a_failure_is_an_alert_of_its_own_level(store):
    def fails(config, say):
        raise RuntimeError("no such device")

    run = store.create(small_config())
    assert train(run.config, run, build=fails) == "failed"
    assert [e["level"] for e in run.events() if e["kind"] == "alert"] == ["error"]


def test_the_last_event_tells_how_it_ended(store):
    run, _ = finished(store, small_config(episodes=1))
    events = run.events()
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert (events[-1]["kind"], events[-1]["state"]) == ("status", "completed")
    assert json.loads(run.status_path.read_text())["eta_seconds"] is None
