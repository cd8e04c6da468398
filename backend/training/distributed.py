"""Several processes on one run (torchrun, accelerate): each draws its share of every group, walks it back and replays it; rank 0 alone writes.

All processes hold the same policy, optimiser and group. They share out what costs forwards of the model (rollouts, the way
back, the pairs of each minibatch) and add up the gradients, so that a run on many processes is the run on one but for
the rounding of those sums. TRPO's conjugate gradients are computed by every process in full.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.config import TrainConfig
from backend.ppo.ranks import Ranks
from backend.runs import Run, RunStore

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(hours=2)  # for a process that is still at its part of an episode
KEEP_ALIVE_SECONDS = 60.0  # between two signs that rank 0 gives while the run is paused


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the run."""
    return rank() == 0


class Team(Ranks):
    """The processes that train together; what they tell each other travels over gloo, whatever the device."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self._dist = dist
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every process."""
        box = [value]
        self._dist.broadcast_object_list(box)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks, on every process."""
        box: list[Any] = [None] * self.size
        self._dist.all_gather_object(box, value)
        return box

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of every process's tensor; gloo sums each piece on one process, so that all get the same bits."""
        shared = value.detach().to("cpu", copy=True)
        self._dist.all_reduce(shared)
        return shared.to(value.device)

    def leave(self) -> None:
        """End the group."""
        self._dist.destroy_process_group()


def team_control(run: Run, team: Team) -> Any:
    """A control whose decisions between episodes are rank 0's, on every process."""
    from backend.training.control import Control

    class TeamControl(Control):
        def should_stop(self) -> bool:
            return False  # nobody leaves an episode that the others go on with, and what is asked meanwhile waits for `turnover`

        def turnover(self) -> bool:
            """As `Control`'s, decided by rank 0 for all."""
            if team.rank == 0:
                self._told = time.monotonic()
                go_on = super().turnover()
                orders = team.broadcast((go_on, self.changes, self.save_now, self.sample_now))
            else:
                while (orders := team.broadcast(None)) is None:
                    pass  # paused
            go_on, self.changes, self.save_now, self.sample_now = orders
            return go_on

        def _stand_aside(self) -> None:
            super()._stand_aside()
            if time.monotonic() - self._told > KEEP_ALIVE_SECONDS:
                team.broadcast(None)  # a pause may last longer than the others' patience with a process that says nothing
                self._told = time.monotonic()

    return TeamControl(run)


def train_together(
    config: TrainConfig, run_id: Callable[[], str], root: Path, build: Any = None, listen: Callable[[Any], AbstractContextManager[None]] = nullcontext, **keywords: Any
) -> str:
    """Train one run with all processes of the environment's team, from its newest sound checkpoint.

    Rank 0 trains in the run's own directory; the others do exactly the same in a temporary one that is thrown away.

    Args:
        config: the settings.
        run_id: called on rank 0 for the id of the run.
        root: the folder of runs, which all processes see.
        build: session builder.
        listen: what hears signals meanwhile, from the control; on every rank, since torchrun sends them to all.
        keywords: go to `train`.
    """
    from backend.training.session import build_session
    from backend.training.trainer import train

    team = Team()
    scratch = None
    try:
        run = RunStore(root).get(team.broadcast(run_id() if team.rank == 0 else None))
        if team.rank:
            scratch = tempfile.mkdtemp(prefix="craterlab-rank-")
            run = _shadow(run, Path(scratch))
            config = config.model_copy(update={"eval_images": 0, "tracker": "none"})
            keywords = {}
        team.gather(None)  # rank 0 cuts its tables and puts damaged checkpoints away only once the others have their copies

        def shared(settings: TrainConfig, say: Any) -> Any:
            session = (build or build_session)(settings.model_copy(update={"device": _own_device(settings)}), say)
            session.agent.join_ranks(team)
            return session

        control = team_control(run, team)
        with listen(control):
            return train(config, run, control, build=shared, **keywords)
    finally:
        team.leave()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _shadow(run: Run, folder: Path) -> Run:
    """A copy of a run that goes on from the same checkpoint and hears of the same live changes."""
    copy = RunStore(folder).create(run.config, run.record)
    for info in run.checkpoints():
        shutil.copytree(info.path, copy.checkpoints_dir / info.name)
    if run.events_path.exists():
        shutil.copy(run.events_path, copy.events_path)
    return copy


def _own_device(config: TrainConfig) -> str:
    if config.device not in ("auto", "cuda"):
        return config.device
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
