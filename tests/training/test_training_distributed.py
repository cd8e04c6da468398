"""Two processes on one run: rank 0 alone writes, and the run is the one that a single process makes."""

import multiprocessing
import os
import shutil
import socket
import threading
import time
from datetime import timedelta

import pytest
import torch

from backend.diffusion.trajectory import Trajectory
from backend.runs import RunStore
from backend.training import distributed, resume
from backend.training.distributed import Team, train_together
from backend.training.trainer import train
from tests.learner_bench import bench
from tests.training.fake_learner import fake_build, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import wait_for

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
        images=first(*size), path=later(8, *size), states=later(k, *size), actions=later(k, *size), means=later(k, *size),
        log_stds=later(k, 1, 1, 1), log_probs=later(k), timesteps=later(k), alphas=later(k), alphas_prev=later(k), guidance=first(), embeds=first(5, 6),
        schedule_timesteps=later(7), seeds=list(seeds), window=(1, k),
    )  # fmt: skip


def test_joined_parts_are_the_whole():
    whole, joined = trajectory([1, 2, 3, 4, 5]), Trajectory.join([trajectory([1, 2, 3]), trajectory([4, 5])])
    for name, value in vars(whole).items():
        other = getattr(joined, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


def as_rank(rank, port, size):
    """Make this process one of a team."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)


def one_rank(rank, port, root, run_id, config, results):
    as_rank(rank, port, 2)
    sessions = []
    state = train_together(config, lambda: run_id, root, build=fake_build(keep=sessions))
    results.put((rank, state, sessions[0].agent.policy.weight.detach().numpy().tobytes()))


def in_processes(work, *arguments, size=2):
    """What `work(rank, port, *arguments, results)` puts into `results`, sorted, one from each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=work, args=(r, port, *arguments, results), daemon=True) for r in range(size)]
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
    (_, state, weights), (_, other, same) = in_processes(one_rank, store.root, run.id, config)
    assert (state, other) == ("completed", "completed") and weights == same
    assert fingerprint(run) == fingerprint(alone)
    longer = small_config(episodes=9, save_every=3)
    straight = store.create(longer)
    train(longer, straight, build=fake_build())
    in_processes(one_rank, store.root, run.id, longer)
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(straight)["policy_updates.csv"]
    assert len(store.list()) == 3


def test_a_pause_may_last_longer_than_the_processes_patience_with_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(seconds=4))
    monkeypatch.setattr(distributed, "KEEP_ALIVE_SECONDS", 0.2)
    store, config = RunStore(tmp_path), small_config(episodes=6, save_every=3)
    run = store.create(config)
    run.request("pause")

    def go_on():
        wait_for(lambda: run.status().state == "paused")
        time.sleep(7)
        run.request("resume")

    person = threading.Thread(target=go_on, daemon=True)
    person.start()
    found = in_processes(one_rank, store.root, run.id, config)
    assert [state for _, state, _ in found] == ["completed", "completed"]


def one_slow_rank(rank, port, root, run_id, config, results):
    """As `one_rank`; checkpoints are copied slowly, and put away while that goes on if nothing prevents it."""
    copy, put_away = shutil.copytree, resume.put_away
    shutil.copytree = lambda *paths: (time.sleep(1), copy(*paths))
    resume.put_away = lambda *which: (time.sleep(0.5), put_away(*which))[1]
    one_rank(rank, port, root, run_id, config, results)


def test_a_damaged_checkpoint_is_put_away_only_when_all_processes_have_their_copies(tmp_path):
    store, config = RunStore(tmp_path), small_config(episodes=6, save_every=3)
    whole, run = store.create(config), store.create(config)
    train(config, whole, build=fake_build())
    train(small_config(episodes=5, save_every=3), run, build=fake_build())
    (run.checkpoints()[-1].path / "trainer.json").write_text("{}")
    (_, state, weights), (_, other, same) = in_processes(one_slow_rank, store.root, run.id, config)
    assert (state, other) == ("completed", "completed") and weights == same
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(whole)["policy_updates.csv"] and list(run.checkpoints_dir.glob(".damaged-*"))


EPISODES, IMAGES = 2, 6


def learn(b):
    """Two episodes of the real agent: what the policy is then, and what it reported."""
    reports = []
    for number in range(EPISODES):
        drawn = b.rollout(number)
        slope = torch.randn(drawn.images.shape, generator=torch.Generator().manual_seed(number)) / drawn.images[0].numel()
        reports.append(b.agent.update(drawn, 20 * (drawn.images.mean((1, 2, 3)) - 0.5), b.index, None, torch.Generator().manual_seed(number), image_gradient=slope).to_dict())
    return torch.cat([p.detach().flatten() for p in b.agent.policy.trainable().values()]), reports


def one_learner(rank, port, make, size, results):
    as_rank(rank, port, size)
    team = Team()
    b = make()
    b.agent.join_ranks(team)
    drawn = [len(team.share(IMAGES))]
    weights, reports = learn(b)
    results.put((rank, drawn, weights.numpy().tobytes(), reports))
    team.leave()


# Six minibatches of one image have two pairs each: of three processes one has none.
@pytest.mark.parametrize(("values", "size"), [({"pathwise": 0.0, "advantage": "gae", "mode": "DIVERSITY_POLICY"}, 2), ({"minibatches": 6}, 3)])
def test_processes_share_an_update_and_agree_to_the_bit(bench, values, size):
    def make():
        return bench(kl_base_coef=0.1, **values)

    start = torch.cat([p.detach().flatten() for p in make().agent.policy.trainable().values()])
    torch.set_num_threads(1)
    found = in_processes(one_learner, make, size, size=size)
    alone, reports = learn(make())
    assert len({weights for _, _, weights, _ in found}) == 1
    assert sum(drawn[0] for _, drawn, _, _ in found) == IMAGES
    ours = torch.frombuffer(bytearray(found[0][2]), dtype=torch.float32)
    assert float((ours - alone).norm()) < 0.02 * float((alone - start).norm())
    for mine, theirs in zip(found[0][3], reports, strict=True):
        assert mine["samples_used"] == theirs["samples_used"] and mine["kl_divergence"] == pytest.approx(theirs["kl_divergence"], rel=0.05, abs=1e-6)
