"""Two processes on one run: rank 0 alone writes, and the run is the one that a single process makes."""

import multiprocessing
import os
import socket
from types import SimpleNamespace

import pytest
import torch

from backend.diffusion.trajectory import Trajectory
from backend.runs import RunStore
from backend.training import distributed
from backend.training.distributed import SharedAgent, join_trajectories, train_together
from backend.training.trainer import train
from tests.learner_bench import bench
from tests.training.fake_learner import fake_build, small_config
from tests.training.fingerprint import fingerprint

__all__ = ["bench"]


def trajectory(seeds):
    """A recorded rollout with the real one's shapes; every number names its image."""
    b, k, size = len(seeds), 2, (3, 4, 4)
    value = torch.tensor(seeds, dtype=torch.float32)

    def first(*shape):
        return value.reshape(b, *[1] * len(shape)).expand(b, *shape).clone()

    def later(steps, *shape):
        return first(*shape).expand(steps, b, *shape).clone()

    return Trajectory(
        images=first(*size), final_latents=first(*size), latents=later(k + 1, *size), path=later(8, *size), states=later(k, *size), actions=later(k, *size), means=later(k, *size),
        log_stds=later(k, 1, 1, 1), log_probs=later(k), timesteps=later(k), alphas=later(k), alphas_prev=later(k), guidance=first(), embeds=first(5, 6),
        schedule_timesteps=later(7), seeds=list(seeds), window=(1, k),
    )  # fmt: skip


def test_joined_parts_are_the_whole():
    whole, joined = trajectory([1, 2, 3, 4, 5]), join_trajectories([trajectory([1, 2, 3]), trajectory([4, 5])])
    for name, value in vars(whole).items():
        other = getattr(joined, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


def fake_join(parts):
    return SimpleNamespace(
        images=torch.cat([p.images for p in parts]), noise=torch.cat([p.noise for p in parts]), log_probs=torch.cat([p.log_probs for p in parts], 1), episode=parts[0].episode
    )


def one_rank(rank, port, root, run_id, config, results):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.join_trajectories, distributed.move = fake_join, lambda part, device: part
    sessions = []
    state = train_together(config, lambda: run_id, root, build=fake_build(keep=sessions))
    results.put((rank, state, sessions[0].agent._agent.policy.weight.detach().numpy().tobytes()))


def together(store, config, run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=one_rank, args=(r, port, store.root, run.id, config, results), daemon=True) for r in range(2)]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=200) for _ in processes)
    for process in processes:
        process.join(60)
    return found


def test_two_processes_make_the_run_of_one_and_stop_and_resume_alike(tmp_path):
    store, config = RunStore(tmp_path), small_config(episodes=6, save_every=3)
    alone, run = store.create(config), store.create(config)
    train(config, alone, build=fake_build())
    (_, state, weights), (_, other, same) = together(store, config, run)
    assert (state, other) == ("completed", "completed") and weights == same
    assert fingerprint(run) == fingerprint(alone)
    longer = small_config(episodes=9, save_every=3)
    straight = store.create(longer)
    train(longer, straight, build=fake_build())
    together(store, longer, run)
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(straight)["policy_updates.csv"]
    assert len(store.list()) == 3


class Lockstep:
    """A team whose processes take turns in one: `gather` returns what the others would have sent."""

    def __init__(self, rank, size, sent):
        self.rank, self.size, self.sent = rank, size, sent

    def gather(self, value):
        self.sent[self.rank] = value
        return [self.sent.get(rank) for rank in range(self.size)]


@pytest.mark.parametrize("size", [2, 4, 7])
def test_processes_share_the_way_back(bench, size):
    b = bench()
    drawn = b.rollout(1)
    weight = torch.randn(drawn.images.shape, generator=torch.Generator().manual_seed(0))
    alone = b.agent.pulls(drawn, weight, 1.0, 2)
    sent = {}
    for rank in range(size):  # seven processes for six images: the last has none
        SharedAgent(b.agent, Lockstep(rank, size, sent), torch.device("cpu"))
        shared = b.agent.walk(b.agent.backbone, b.agent.policy, drawn, weight, 2)
    assert shared.shape == drawn.actions.shape
    assert torch.allclose(b.agent.pulls(drawn, weight, 1.0, 2), alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))
