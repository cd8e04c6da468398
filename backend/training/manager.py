"""The queue of runs in this process: one worker that owns the device, tokens and logins that say who may steer, no torch until a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple

from backend.config import TrainConfig, make_config, upgrade
from backend.errors import InputError
from backend.runs import LIVE, Login, Owner, Run, RunStore, is_owner, new_owner, set_owner
from backend.training.chunks import Chunk, chunks_awaited
from backend.training.executors import leave_cluster, queue_again, settle
from backend.training.host import Host
from backend.training.hosted import Hosted, QueueEntry
from backend.training.libraries import import_trainer
from backend.training.limits import Limits
from backend.training.live import validate_change
from backend.training.places import Places
from backend.training.record import machine_record
from backend.training.turns import Turns

FOREIGN = "this run belongs to another visitor: only its owner can steer it; start or clone one of your own"


class Ticket(NamedTuple):
    """What Start returns: the run, and the token that steers it."""

    run_id: str
    token: str


class Manager:
    """Starts, queues and steers runs.

    Args:
        store: where runs live.
        require_token: whether steering needs the run's token (a public demo), or everybody here is the local user.
        limits: caps of a public demo.
        trust_paths: whether settings may name files, folders and hub ids; False for settings that come from visitors.
        build: session builder of thread-hosted runs, for tests.
        command: command of process-hosted runs, for tests.
        chunk: trains a run, by folder and id, for a while, where no thread of this process may own the device; runs wait for `train_chunk`.
    """

    def __init__(
        self,
        store: RunStore,
        require_token: bool = False,
        limits: Limits | None = None,
        trust_paths: bool = True,
        build: Any = None,
        command: Any = None,
        chunk: Chunk | None = None,
    ) -> None:
        self.store, self.require_token, self.limits, self.trust_paths, self.chunk = store, require_token, limits or Limits(), trust_paths, chunk
        self.host = Host(store, build, command)
        self.turns = Turns(store, self.host.lease, chunk) if chunk else None
        self.hosted = Hosted(store, self.host, self.turns)
        self.places = Places(self.limits, self._waiting, lambda: {*self.host.ids(), *self.hosted.in_chunk()})
        self.found_at_start = self.reconcile()

    # Starting

    def start(self, values: Mapping[str, Any], owner: Owner | None = None) -> Ticket:
        """Check settings, make a run and queue it.

        Args:
            values: settings by name; what is missing takes its default.
            owner: the caller's own token, so that one browser has one token, or the user who is logged in; a new token by default.

        Raises:
            InputError: settings, files, limits or the disk refuse; nothing was left behind.
        """
        config = make_config(upgrade(values, trusted=self.trust_paths))
        self._check(config)
        record = machine_record(config)
        with self.places.alone():
            self.places.check(owner)
            self._make_room()
            run, token = self._create(config, record, owner)
            self.places.give(run.id, owner)
            self._enqueue(run)
        return Ticket(run.id, token)

    def _make_room(self) -> None:
        """Remove the oldest runs that have ended, of those beyond what is kept; one that cannot be removed stays."""
        if self.limits.keep_runs is not None:
            ended = [run for run in self.store.runs() if self.hosted.state(run) not in LIVE]
            for run in ended[self.limits.keep_runs :]:
                with suppress(InputError):
                    self.store.discard(run)

    def _create(self, config: TrainConfig, record: dict[str, Any], owner: Owner | None) -> tuple[Run, str]:
        run = self.store.create(config, record)
        token = owner if isinstance(owner, str) and owner else new_owner()
        try:
            set_owner(run, token, owner if isinstance(owner, Login) else None)
        except OSError as error:
            self.store.discard(run)
            raise InputError(f"the owner of a new run cannot be written in {self.store.root} ({error.strerror}): free space or set RUNS_DIR to another folder") from error
        return run, token

    def _enqueue(self, run: Run) -> None:
        if self.turns is None:
            self.host.enqueue(run)

    def _waiting(self) -> list[str]:
        return self.host.waiting() if self.turns is None else chunks_awaited(self.store)

    def _check(self, config: TrainConfig) -> None:
        from backend.training.trackers import check_tracker

        self.limits.check_settings(config)
        self._check_inputs(config)
        check_tracker(config)

    def _check_inputs(self, config: TrainConfig, begun: bool = False) -> None:
        from backend.training.session import check_inputs

        if not self.host.has_own_sessions:
            check_inputs(config, here=self.chunk is None, begun=begun)

    def resume(self, run_id: str, token: Owner | None = None) -> str:
        """Let a paused run go on, or queue one that ended early.

        Returns:
            The sentence for the person.

        Raises:
            InputError: not the owner, nothing to resume, no place in the queue, or a file or the device that it needs is not here.
        """
        run = self._steerable(run_id, token)
        with self.places.alone():
            state = self.hosted.state(run)
            if state == "paused" or self.hosted.requested(run, run.status(), state) == "pause":
                run.request("resume")
                return "going on"
            if state in LIVE:
                raise InputError(f"run {run_id} is {state}: there is nothing to resume")
            self.places.check(self.places.owner_of(run_id, token))
            if state == "completed" and run.status().episode >= run.config.episodes:
                raise InputError(f"run {run_id} is completed: clone it to train longer or differently")
            self._check_inputs(run.config, begun=True)
            dropped = queue_again(run)
            self.places.give(run_id, token)
            self._enqueue(run)
        left = f"; {len(dropped)} requests left for the earlier process were dropped" if dropped else ""
        return f"queued: it goes on from its newest sound checkpoint{left}"

    def train_chunk(self, run_id: str, token: Owner | None = None) -> str:
        """Train a waiting run for as long as the GPU is lent; returns when that time is over.

        Returns:
            The sentence for the person; empty where the run does not wait for a chunk.

        Raises:
            InputError: not the owner, the GPU is busy for too long, or the run's files refuse.
            Exception: what the lender raises where it refuses.
        """
        run = self._steerable(run_id, token)
        if self.turns is None or run.status().state != "queued":
            return ""
        if not self.host.has_own_sessions:
            import_trainer()  # here: the process that has the GPU is a fork of this one
        return self.turns.take(run)

    def clone(self, run_id: str, changes: Mapping[str, Any] | None = None, owner: Owner | None = None) -> Ticket:
        """A new run with another's settings, some of them changed."""
        return self.start({**self.values_of(run_id), **(changes or {})}, owner)

    def values_of(self, run_id: str) -> dict[str, Any]:
        """Settings of a run, for a form."""
        return {k: v for k, v in self.store.get(run_id).config.model_dump().items() if k != "schema_version"}

    # Steering

    def may_steer(self, run_id: str, token: Owner | None) -> bool:
        """Whether the holder of a token, or a user who is logged in, may steer a run."""
        return not self.require_token or is_owner(self.store.get(run_id), token)

    def _steerable(self, run_id: str, token: Owner | None) -> Run:
        run = self.store.get(run_id)
        if self.require_token and not is_owner(run, token):
            raise InputError(FOREIGN)
        return run

    def _request(self, run_id: str, token: Owner | None, kind: str, payload: dict[str, Any] | None = None) -> str:
        run = self._steerable(run_id, token)
        state = self.hosted.state(run)
        if state not in LIVE or (state == "queued" and kind != "stop"):
            raise InputError(f"run {run_id} is {state}: it cannot take {kind.replace('_', ' ')} now")
        return run.request(kind, payload)

    def pause(self, run_id: str, token: Owner | None = None) -> str:
        """Pause after the episode in hand; returns the request's id."""
        return self._request(run_id, token, "pause")

    def stop(self, run_id: str, token: Owner | None = None) -> str:
        """Stop gracefully, with a checkpoint; a queued run leaves the queue, one that is just leaving it ends before it trains.

        Returns:
            The request's id; empty for a queued run, which has left the queue already.
        """
        run = self._steerable(run_id, token)
        if self.host.take_out(run) or (self.turns is not None and self.turns.leave(run)) or leave_cluster(run):
            return ""
        return self._request(run_id, token, "stop")

    def save_now(self, run_id: str, token: Owner | None = None) -> str:
        """Write a checkpoint after the episode in hand; returns the request's id."""
        return self._request(run_id, token, "save_now")

    def sample_now(self, run_id: str, token: Owner | None = None) -> str:
        """Draw the samples after the episode in hand; returns the request's id."""
        return self._request(run_id, token, "sample_now")

    def change(self, run_id: str, field: str, value: Any, token: Owner | None = None) -> str:
        """Change a live setting with the next episode; returns the request's id.

        Raises:
            InputError: not live, out of bounds, or not the owner.
        """
        run = self._steerable(run_id, token)
        new = getattr(validate_change(run.config, field, value), field)
        return self._request(run_id, token, "change", {"field": field, "value": new})

    def force_stop(self, run_id: str, token: Owner | None = None) -> str:
        """End a run now where its host allows it; the sentence says what happened."""
        run = self._steerable(run_id, token)
        active = self.host.active
        if active and active[0] == run_id:
            if active[1].name == "thread":
                run.request("stop")
            return active[1].force_stop()
        self._request(run_id, token, "stop")
        return "this run trains in another process: it was asked to stop, and only its own host can cut it off"

    def delete(self, run_id: str, token: Owner | None = None) -> None:
        """Remove a run that is not live.

        Raises:
            InputError: not the owner, or the run is live or cannot be removed.
        """
        run = self._steerable(run_id, token)
        if self.hosted.state(run) == "interrupted":
            settle(run, "interrupted", "", error="")  # one that this very process has lost still says that it lives
        self.store.delete(run_id)

    # Looking

    def active(self) -> str | None:
        """Id of the run that this process trains."""
        return self.host.active[0] if self.host.active else None

    def queue(self) -> list[QueueEntry]:
        """The run that trains and those that wait, in order."""
        return self.hosted.queue()

    def status(self, run_id: str) -> dict[str, Any]:
        """A run's status with what only this process knows: `effective_state`, `place`, `waiting`, `hosted_here`; `requested` counts what still waits to be read."""
        return self.hosted.status(self.store.get(run_id))

    def reconcile(self) -> list[str]:
        """Look for runs whose process died. Nothing is written: readers see them as interrupted, Resume takes them over."""
        found = []
        for summary in self.store.list():
            if summary.state == "interrupted" and not summary.damaged:
                found.append(f"run {summary.id} was interrupted after {summary.episode} of {summary.total} episodes: Resume goes on from its newest sound checkpoint")
        return found

    # The device

    def device(self, name: str, timeout: float = 300.0) -> AbstractContextManager[None]:
        """Own the device within a `with` block, between two episodes of whatever trains here.

        Raises:
            InputError: it did not become free in time.
        """
        return self.host.device(name, timeout)

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing trains or waits here; whether that was reached."""
        return self.host.wait_until_idle(timeout)

    def shutdown(self, timeout: float = 60.0) -> bool:
        """Stop gracefully; whether everything ended in time."""
        return self.host.shutdown(timeout)
