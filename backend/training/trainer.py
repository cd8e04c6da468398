"""The episode loop: draw a group, score it, update the policy, write it down. A plain function, whoever hosts it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from backend.config import TrainConfig
from backend.diffusion.sampler import Stopped
from backend.errors import InputError, is_out_of_memory
from backend.runs import LIVE, Run
from backend.runs.files import read_json, write_json
from backend.runs.process import host_name, is_same_process_alive
from backend.runs.status import fresh_status
from backend.runs.takeover import claimed
from backend.training.control import Control
from backend.training.episodes import EpisodeLoop
from backend.training.recorder import Recorder, RunLost
from backend.training.resume import begin, leave_changes
from backend.training.session import Session, build_session
from backend.training.trackers import track

Build = Callable[[TrainConfig, Callable[[str], None]], Session]
Observe = Callable[[str, dict[str, Any]], None]


def train(config: TrainConfig, run: Run, control: Control | None = None, *, build: Build = build_session, observe: Observe | None = None, executor: str = "command line") -> str:
    """Train a run from its newest sound checkpoint, or from the start, until its end or a stop.

    Args:
        config: the run's settings.
        run: its directory, which this process takes over.
        control: where requests come from; by default the run's control folder.
        build: makes the session; tests give a small learner.
        observe: called with (kind, content) for a progress bar.
        executor: what hosts it, for the status.

    Returns:
        The last state: `completed`, `stopped` or `failed`.

    Raises:
        InputError: another process owns the run.
        RunLost: the run's folder vanished or stayed unwritable.
    """
    before = run.status()
    if before.state in LIVE and before.state != "queued" and before.host == host_name() and is_same_process_alive(before.pid, before.pid_create_time):
        raise InputError(f"run {run.id} is {before.state} in process {before.pid}: stop it there first")
    control = control or Control(run)
    with _threads(config, run):
        with claimed(run.attempts_dir, before.attempt) as attempt:
            cut = begin(run)
            status = fresh_status(
                state="starting", attempt=attempt, total=config.episodes, episode=cut.episode, executor=executor, best_score=before.best_score,
                best_episode=before.best_episode, base_level=before.base_level, reference_level=before.reference_level, score=before.score,
            )  # fmt: skip
            recorder = Recorder(run, status, observe)
        recorder.event("status", state="starting", episode=cut.episode, attempt=attempt, message="")
        control.acknowledge = recorder.acknowledge
        try:
            with track(config, run, recorder):
                return _guarded(config, run, control, recorder, build, cut)
        finally:
            recorder.close()


def _guarded(config: TrainConfig, run: Run, control: Control, recorder: Recorder, build: Build, cut: Any) -> str:
    """Run the loop and turn whatever ends it into a last state and a sentence."""
    try:
        for sentence in cut.sentences:
            recorder.alert(sentence)
        if control.should_stop():
            raise Stopped
        session = build(config, recorder.phase)
        _remember_facts(run, session.facts)
        for sentence in session.notes:
            recorder.alert(sentence)
        loop = EpisodeLoop(config, run, control, recorder, session, cut)
        finished = loop.run()
        leave_changes(control, recorder)
        if finished:
            _evaluate(config, run, control, recorder, session.device, loop.pace.evaluation())
        state = "completed" if finished else "stopped"
        recorder.state(state, phase="", requested="", eta_seconds=None, message=f"{state} after {recorder.status.episode} of {config.episodes} episodes")
        return state
    except RunLost:
        recorder.state("failed", phase="", error="the disk refused: the run ended after its last checkpoint; free space and press Resume")
        raise
    except Stopped:
        leave_changes(control, recorder)
        recorder.state("stopped", phase="", requested="", message="stopped before the first episode ended")
        return "stopped"
    except Exception as error:
        sentence = explain_failure(error, config)
        leave_changes(control, recorder)
        if not isinstance(error, InputError):
            recorder.log(traceback.format_exc())
        recorder.alert(sentence, level="error")
        recorder.state("failed", phase="", error=sentence, eta_seconds=None)
        if isinstance(error, InputError):
            raise
        return "failed"
    except BaseException:
        leave_changes(control, recorder)
        recorder.state("interrupted", phase="", eta_seconds=None, message="cut off; Resume goes on from the newest checkpoint")
        raise
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _threads(config: TrainConfig, run: Run) -> Iterator[None]:
    """Torch threads as the run recorded them: sums over threads differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(config.threads or run.record.get("threads") or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _remember_facts(run: Run, facts: dict[str, Any]) -> None:
    """What only the loaded session knows joins config.json's record."""
    document = read_json(run.config_path)
    if document is not None and facts:
        record = document.get("record") or {}
        write_json(run.config_path, {**document, "record": {**record, **facts}})


def _evaluate(config: TrainConfig, run: Run, control: Control, recorder: Recorder, device: torch.device, expected: float | None) -> None:
    """Compare base and tuned model on the test prompts; a failure here leaves the training as completed as it is.

    Args:
        config, run, control, recorder, device: as in training.
        expected: seconds that it is expected to take; None where nothing is known of the pace.
    """
    if not config.eval_images:
        return
    from backend.evaluation.evaluate import evaluate_run
    from backend.evaluation.results import images_judged

    standing = run.evaluation() or {}
    if images_judged(standing) > config.eval_images:  # a person's, of the run before it went on
        recorder.alert(
            f"the evaluation of {standing.get('checkpoint')} with {images_judged(standing):,} images stays; `python -m backend evaluate {run.id} --replace` judges the newest"
        )
        return
    images = f"{config.eval_images} images each of base and tuned model on the test prompts"
    recorder.log(f"evaluating {images}")
    recorder.writer.update(message=f"All episodes are done; judging {images}.", eta_seconds=expected)
    began = time.monotonic()

    def tell(what: str, share: float) -> None:
        left = (expected or 0.0) - (time.monotonic() - began)
        recorder.phase(f"evaluating: {what}", round(100 * share), 100)
        recorder.writer.note(eta_seconds=left if left > 0 else None)  # longer than expected: no number is better than 0

    try:
        evaluate_run(run, images=config.eval_images, device=str(device), should_stop=control.should_stop, progress=tell)
    except Stopped:
        recorder.alert(f"the evaluation was stopped; `python -m backend evaluate {run.id}` makes it up")
    except (InputError, OSError, RuntimeError, ValueError) as error:
        recorder.log(traceback.format_exc())
        recorder.alert(f"the evaluation failed ({error}); the trained policy is saved: `python -m backend evaluate {run.id}` tries again", level="error")
    else:
        recorder.log(f"evaluated in {time.monotonic() - began:.0f} s")


def explain_failure(error: BaseException, config: TrainConfig) -> str:
    """One sentence for a person about what ended a run, with what to change."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, InputError):
        return text
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
        smaller = max(1, config.group_size // config.minibatches // 2)
        remedies = [f"micro_batch {smaller}"] if config.micro_batch != 1 else []
        remedies += [] if config.gradient_checkpointing else ["gradient checkpointing"]
        remedies += [f"images_per_prompt {config.images_per_prompt // 2}"] if config.images_per_prompt > 1 else [f"prompts_per_group {max(1, config.prompts_per_group // 2)}"]
        return f"Out of memory at {config.group_size} images a group: try {' or '.join(remedies)}"
    return f"{type(error).__name__}: {text or 'no message'} (log.txt has the details)"
