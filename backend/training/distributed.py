"""Several processes on one run (torchrun, accelerate): each draws its share of every group and walks it back, rank 0 alone writes.

All processes hold the same policy and make the same update from the same gathered group, so that nothing has to be
averaged and a run on many processes is the run on one. What is saved is the sampling time, the larger part of an episode.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from backend.config import TrainConfig
from backend.runs import Run, RunStore

FIRST = {"images", "final_latents", "guidance", "embeds"}  # of a trajectory: [B, ...]; all other tensors are [K, B, ...]
PATIENCE = timedelta(hours=2)  # a paused run answers nobody meanwhile


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the run."""
    return rank() == 0


class Team:
    """The processes that train together; objects travel between them over gloo, whatever the device."""

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

    def leave(self) -> None:
        """End the group."""
        self._dist.destroy_process_group()


def join_trajectories(parts: Sequence[Any]) -> Any:
    """One trajectory of the images of several, in order."""
    import torch

    values: dict[str, Any] = {}
    for field in fields(parts[0]):
        items = [getattr(part, field.name) for part in parts]
        if isinstance(items[0], torch.Tensor):
            values[field.name] = torch.cat(items, 0 if field.name in FIRST else 1)
        elif field.name == "seeds":
            values[field.name] = [seed for item in items for seed in item]
    return replace(parts[0], **values)


def move(trajectory: Any, device: Any) -> Any:
    """The trajectory with its tensors on another device."""
    import torch

    tensors = {f.name: value.to(device) for f in fields(trajectory) if isinstance(value := getattr(trajectory, f.name), torch.Tensor)}
    return replace(trajectory, **tensors)


class SharedAgent:
    """An agent whose rollouts are shared out over a team; everything else is the agent's own.

    Args:
        agent: this process's agent.
        team: the processes.
        device: where trajectories belong.
    """

    def __init__(self, agent: Any, team: Team, device: Any) -> None:
        self._agent, self._team, self._device = agent, team, device
        agent.walk = self._walk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agent, name)

    def rollout(self, prompt_embeds: Any, seeds: Sequence[int], *args: Any, should_stop: Any = None, **keywords: Any) -> Any:
        """As the agent's; every process gets the whole group. It cannot be left half-way, or the others would wait for ever."""
        mine = self._mine(len(seeds))
        part = self._agent.rollout(prompt_embeds[mine], [seeds[i] for i in mine], *args, **keywords) if mine else None
        parts = self._team.gather(None if part is None else move(part, "cpu"))
        return move(join_trajectories([p for p in parts if p is not None]), self._device)

    def _mine(self, images: int) -> list[int]:
        """This process's share of a group."""
        return np.array_split(np.arange(images), self._team.size)[self._team.rank].tolist()

    def _walk(self, backbone: Any, policy: Any, trajectory: Any, image_gradient: Any, micro_batch: int, should_stop: Any = None) -> Any:
        """`noise_gradient` of the whole group, of which every process walks back its share."""
        import torch

        from backend.diffusion.pathwise import noise_gradient

        mine = torch.tensor(self._mine(len(trajectory)), dtype=torch.long, device=image_gradient.device)
        part = noise_gradient(backbone, policy, trajectory.slice(mine), image_gradient[mine], micro_batch).cpu() if len(mine) else None
        return torch.cat([p for p in self._team.gather(part) if p is not None], dim=1).to(trajectory.actions.device)


def team_control(run: Run, team: Team) -> Any:
    """A control whose decisions between episodes are rank 0's, on every process."""
    from backend.training.control import Control

    class TeamControl(Control):
        def should_stop(self) -> bool:
            if team.rank == 0:
                self.poll()
            return False

        def turnover(self) -> bool:
            orders = None
            if team.rank == 0:
                go_on = super().turnover()
                orders = (go_on, self.changes, self.save_now, self.sample_now)
            go_on, self.changes, self.save_now, self.sample_now = team.broadcast(orders)
            return go_on

    return TeamControl(run)


def train_together(config: TrainConfig, run_id: Callable[[], str], root: Path, build: Any = None, **keywords: Any) -> str:
    """Train one run with all processes of the environment's team.

    Rank 0 trains in the run's own directory; the others do exactly the same in a temporary one that is thrown away.

    Args:
        config: the settings.
        run_id: called on rank 0 for the id of the run.
        root: the folder of runs, which all processes see.
        build: session builder.
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

        def shared(settings: TrainConfig, say: Any) -> Any:
            session = (build or build_session)(settings.model_copy(update={"device": _own_device(settings)}), say)
            session.agent = SharedAgent(session.agent, team, session.device)
            return session

        return train(config, run, team_control(run, team), build=shared, **keywords)
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
