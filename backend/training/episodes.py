"""One run's episodes, one after another, with everything that happens between two of them."""

from __future__ import annotations

import time
from typing import Any

import torch

from backend.analysis import alerts
from backend.config import TrainConfig, make_config
from backend.diffusion.sampler import Stopped
from backend.errors import InputError
from backend.runs import Run
from backend.runs.tables import PROBED
from backend.training.annealing import anneal
from backend.training.checkpoint import checkpoint_name, keep_and_prune, save_checkpoint, set_aside
from backend.training.control import Control, counting_stop
from backend.training.cost import estimate
from backend.training.curriculum import Curriculum
from backend.training.levels import Levels
from backend.training.libraries import free_cached_memory
from backend.training.live import LENT, validate_change
from backend.training.memory import memory_row
from backend.training.multipliers import Multipliers
from backend.training.packing import snapshot
from backend.training.progress import Pace, Progress
from backend.training.recorder import Recorder
from backend.training.recovery import count_damage, halved_pace, said_of, sound_before
from backend.training.resume import Beginning
from backend.training.rows import EpisodeRecord, all_rows, sample_diversity
from backend.training.samples import Sampler
from backend.training.seeds import choose_group, update_generator
from backend.training.session import Session
from backend.training.summary import episode_line, is_due, opening_lines

ALERT_EVERY = 10  # episodes between two looks for a plateau and for reward hacking


class EpisodeLoop:
    """The state of a training run in memory.

    Args:
        config: the settings as they were at the start of the run; live changes are laid over them.
        run, control, recorder, session: what it works with.
        start: where it goes on.
    """

    def __init__(self, config: TrainConfig, run: Run, control: Control, recorder: Recorder, session: Session, start: Beginning) -> None:
        self.config, self.run_, self.control, self.recorder, self.session = config, run, control, recorder, session
        self.agent = session.agent
        self.replay = dict(start.changes)
        self.progress = Progress.from_dict(start.state["progress"]) if start.state else Progress()
        self.levels = Levels(config, session, self.progress)
        self.samples = Sampler(config, run, recorder, session, self.levels)
        self.curriculum = Curriculum(config, self.progress.curriculum)
        self.multipliers = Multipliers(config, self.progress)
        self.pace = Pace(estimate(config))
        self.saved_at = -1
        self.reward: Any = None
        self._load_or_prepare(start)
        self.live = make_config({**config.model_dump(), **self.progress.live})
        control.config = self.live
        control.waiting = self._show_waiting

    def _load_or_prepare(self, start: Beginning) -> None:
        if start.state:
            self.agent.load_state_dict(start.state["agent"])
            self.reward = self.session.make_reward(None)
            self.reward.load_state_dict(start.state["reward"])
            self.saved_at = start.episode
            self.recorder.log(f"going on from {start.checkpoint}")
            return
        self.recorder.phase("drawing the base model's images")
        images = self.levels.draw_base_group(0, self.control.should_stop)
        self.recorder.phase("loading the reward")
        self.reward = self.session.make_reward(images)
        self.levels.add_first_score(self.reward, images, self.control.should_stop)

    def run(self) -> bool:
        """All remaining episodes.

        Returns:
            Whether the last one was reached; False after a stop.

        Raises:
            RunLost: there is nowhere left to record to, or to write the last checkpoint to.
        """
        self.recorder.state("running", trainable=self.agent.policy.trainable_count, device=str(self.session.device), message="")
        for line in opening_lines(self.live, self.agent.policy.trainable_count, getattr(self.agent, "clip_nats", None)):
            self.recorder.log(line)
        self.recorder.observe("begin", {"episode": self.progress.episode, "total": self.config.episodes})
        if self.saved_at < 0:
            self.save()
        try:
            while self.progress.episode < self.config.episodes:
                if not self.control.turnover():
                    raise Stopped("stopped on request")
                began = time.monotonic()
                self.episode(self.progress.episode + 1)
                self.between(self.progress.episode)
                self.pace.add_turn(time.monotonic() - began)
        except Stopped:
            self.recorder.state("stopping", requested="stop", message="writing a checkpoint")
            self.save()
            return False
        for sentence in self.control.end():
            self.recorder.alert(sentence)
        if not self.save():
            self.recorder.hold_until_written(self.control.should_stop, self._write_checkpoint)
        return True

    def episode(self, number: int) -> None:
        """Draw, score, update, record. A stop in the middle leaves everything as it was before.

        Raises:
            Stopped: on request.
        """
        began = time.monotonic()
        self._apply_changes(number)
        self._measure_levels()
        self.curriculum.apply(number, self.agent, self.reward, self.live)
        self.progress.under(self.agent.config.guidance_scale, self.reward.reference_share)
        anneal(self.config, number, self.agent, self.live)
        weights = self.multipliers.apply(self.reward, self.live)
        index, seeds = choose_group(self.config, len(self.session.train_prompts), number)
        prompts, embeds = [self.session.train_prompts[i] for i in index], self.session.train_embeds[index]
        stop = counting_stop(self.control, self.recorder.phase, "sampling", self.config.num_inference_steps)
        trajectory = self.agent.rollout(embeds, seeds, number, should_stop=stop)
        before = {"agent": self.agent.state_dict(), "reward": snapshot(self.reward.state_dict())}
        try:
            stop = counting_stop(self.control, self.recorder.phase, "sampling twins", self.config.num_inference_steps)
            twins = self.levels.twin_credit(self.reward, number, index, seeds, stop) if self.agent.wants_twins else None
            stop = counting_stop(self.control, self.recorder.phase, "sampling the base", self.config.num_inference_steps)
            base = self.levels.probe_pair(self.reward, number, index, seeds, stop) if self.multipliers.due(number) else None
            self.recorder.phase("scoring")
            where = (trajectory.images, prompts, torch.tensor(index))
            slope = self.reward.image_gradient(*where) if self.agent.wants_image_gradient else None
            result = self.reward(*where)
            stop = counting_stop(self.control, self.recorder.phase, "updating")
            generator = update_generator(self.config, number)
            stats = self.agent.update(
                trajectory, result.total, torch.tensor(index), embeds, generator, should_stop=stop, group_score=result.score, baseline=twins, image_gradient=slope
            )  # fmt: skip
        except BaseException:
            self.agent.load_state_dict(before["agent"])
            self.reward.load_state_dict(before["reward"])
            raise
        figures = stats.to_dict()
        self.progress.add(float(result.score), len(index))
        self.curriculum.learn(float(result.score))
        if base:
            self.multipliers.learn(self.reward, result, base)
        damaged = bool(figures.get("skipped_nonfinite")) or not torch.isfinite(trajectory.images).all()
        if count_damage(self.progress, self.recorder, damaged, stepped=bool(figures.get("optimiser_steps"))):
            self._restore()
        facts = {f"weight_{name}": weight for name, weight in weights.items()}
        seconds = time.monotonic() - began
        self.pace.durations.append(seconds)
        self._record(EpisodeRecord(number, index, seeds, result, figures, trajectory.log_probs, seconds, memory_row(self.session.device), self.session.device, facts))

    def _record(self, record: EpisodeRecord) -> None:
        progress = self.progress
        trending = progress.trend()
        seen = {"guidance_scale": self.agent.config.guidance_scale, "sample_diversity": sample_diversity(record.result.features)}
        record.facts |= progress.facts(trending) | seen
        due = self.config.probe_every and record.episode % self.config.probe_every == 0
        found = self._probe(record.episode) if due and record.episode > 1 else {}  # in the first nothing, since the base's own probe follows it
        record.facts |= {f"probe_{name}": found.get(name) for name in PROBED}
        tables = all_rows(record)
        for name, rows in tables.items():
            self.recorder.rows(name, rows)
        left = self.pace.left(self.config.episodes - progress.episode)
        self.recorder.writer.update(
            episode=progress.episode, score=progress.scores[-1], best_score=progress.best_score, best_episode=progress.best_episode, base_level=progress.base_level,
            reference_level=progress.reference_level, trend=trending.state, seconds_per_episode=self.pace.seconds_per_episode, eta_seconds=left, skipped=progress.skipped,
            memory_mib=tables["training_log"][0]["memory_allocated"], probe_score=progress.probe_score,
        )  # fmt: skip
        row = tables["policy_updates"][0]
        self.recorder.observe("episode", row)
        if is_due(progress.episode, self.config.episodes):
            self.recorder.log(episode_line(row, self.config.episodes))

    def _probe(self, number: int) -> dict[str, float | None]:
        """The fixed test images' score, realism and prompt relevance."""
        self.recorder.phase("probing the test prompts")
        found = self.levels.probe(self.reward)
        self.progress.probes.append(found["score"])
        self.recorder.event("probe", episode=number, base=self.progress.base_probe, **found)
        return found

    def between(self, number: int) -> None:
        """What follows an episode: levels once, samples, checkpoints, and waiting for a disk that refuses.

        Raises:
            RunLost: the disk refused for too long.
        """
        self._measure_levels()
        if number % ALERT_EVERY == 0:
            self._warn()
        if number % self.config.sample_every == 0 or self.control.sample_now or number == self.config.episodes:
            self.control.sample_now = False
            self.samples.draw(number, self.reward)
        if number % self.config.save_every == 0 or self.control.save_now:
            self.control.save_now = False
            self.save()
        if self.config.clear_cache_every and number % self.config.clear_cache_every == 0 and self.session.device.type == "cuda":
            torch.cuda.empty_cache()
        self.recorder.hold_until_written(self.control.should_stop)

    def _measure_levels(self) -> None:
        """After the first episode, so that the curve's first point does not wait for it: the base's sample, then the levels; later, more of the base's."""
        if self.progress.episode == 0:
            return
        if self.progress.reference_level is not None:
            renewed = not self.progress.probes  # not by the scores: a stop amid them would hide it from the resumed run
            if self.levels.refine(self.reward, self.control.should_stop):
                self.recorder.writer.update(base_level=self.progress.base_level)
            if renewed and self.progress.base_probe is not None:
                self._tell_base_probe(self.progress.episode, renewed=True)
            return
        self.samples.draw(0, self.reward)
        self.recorder.phase("measuring the base and reference levels")
        self.levels.measure(self.reward, self.control.should_stop)
        self.recorder.writer.update(base_level=self.progress.base_level, reference_level=self.progress.reference_level)
        if self.progress.base_probe is not None:
            self._tell_base_probe(0)

    def _tell_base_probe(self, episode: int, **facts: Any) -> None:
        self.recorder.event("probe", episode=episode, base=self.progress.base_probe, **self.levels.base_probed, **facts)

    def _warn(self) -> None:
        """Plateau and reward hacking, each said once until it passes."""
        found = {alert.kind: alert for alert in alerts.of_run(self.run_)}
        for kind in found.keys() - set(self.progress.warned):
            self.recorder.alert(found[kind].message, alert=kind, numbers=found[kind].numbers)
        for kind in set(self.progress.warned) - found.keys():
            self.recorder.event("alert_passed", episode=self.progress.episode, alert=kind)
        self.progress.warned = sorted(found)

    def state(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        return {"progress": self.progress.to_dict(), "agent": self.agent.state_dict(), "reward": self.reward.state_dict()}

    def save(self) -> bool:
        """Write a checkpoint of the completed episodes; a refusing disk is told and leaves the earlier ones."""
        if trouble := self._write_checkpoint():
            kept = self.run_.checkpoints()
            earlier = f"{kept[-1].name} is kept" if kept else "there is none yet"
            self.recorder.alert(f"{trouble}: free space; {earlier}", level="error")
        return not trouble

    def _write_checkpoint(self) -> str:
        """Write it where it is not there yet; returns why it could not be written, or nothing."""
        number = self.progress.episode
        if self.saved_at == number:
            return ""
        self.recorder.phase("saving a checkpoint")
        try:
            score = self.progress.smooth_score
            save_checkpoint(self.run_, number, self.state(), self.agent.save_policy, score)
            if score is not None:
                set_aside(self.run_, self.progress.steady_from)
            best = keep_and_prune(self.run_, self.config.keep_last)
        except OSError as error:
            return f"the checkpoint after episode {number} could not be written ({error.strerror or error})"
        self.saved_at = number
        self.recorder.event("checkpoint", episode=number, name=checkpoint_name(number), best=best == checkpoint_name(number))
        return ""

    def _apply_changes(self, number: int) -> None:
        """Live changes take effect here, at an episode's start: recorded ones again, new ones with an event."""
        for change in self.replay.pop(number, []):
            self._set_live(change["field"], change["value"])
        for change in self.control.take_changes():
            self.replay = {later: [old for old in recorded if old["field"] != change["field"]] for later, recorded in self.replay.items()}  # see `standing_changes`
            self._set_live(change["field"], change["value"])
            self.recorder.event("change", episode=number, **change)
        self.control.config = self.live

    def _set_live(self, field: str, value: Any) -> None:
        guidance = self.live.guidance_scale
        try:
            self.live = validate_change(self.live, field, value)
            if field.endswith("_weight"):
                self.reward.set_weight(field, value)
            else:
                self.agent.set_knob(field, value)
        except InputError as error:
            self.recorder.alert(f"{field} stays as it was: {error}")
            return
        self.progress.live[field] = getattr(self.live, field)
        if self.live.guidance_scale != guidance:
            self.levels.forget()

    def _restore(self) -> None:
        """Go back to weights from before the bad updates at half the pace; the episodes go on."""
        name, state = sound_before(self.run_, self.progress.episode, self.config.save_every)
        if state:
            self.agent.load_state_dict(state["agent"])
            self.reward.load_state_dict(state["reward"])
        rate = self.live.learning_rate
        halved = halved_pace(self.live, self.agent.clip_nats_of(self.live))
        for field, value in {**self.progress.live, **halved}.items():
            self._set_live(field, value)
        self.progress.skipped_in_a_row = 0
        self.recorder.event("change", episode=self.progress.episode + 1, field="learning_rate", value=rate / 2, old=rate, source="recovery")
        self.recorder.alert(f"three updates in a row were not finite: {name} is restored, and training goes on at half the {said_of(halved)}")

    def _show_waiting(self, paused: bool, lent: bool) -> None:
        state = self.recorder.status.state
        if paused and state == "running":
            self.recorder.state("paused", phase="", requested="", message="paused on request")
        elif not paused and state == "paused":
            self.recorder.state("running", message="")
        if lent != (self.recorder.status.phase == LENT):
            if lent:
                free_cached_memory()  # before the phase says so, for whoever waits for it begins then
            self.recorder.writer.update(phase=LENT if lent else "")
