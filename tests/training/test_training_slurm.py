"""A cluster's job: it trains in a child, stops with a checkpoint at the time limit, goes on from there, and can be refused or taken back."""

import pickle
import signal
import threading

import pytest
import submitit

from backend.cli.watching import stop_on_signals
from backend.errors import InputError
from backend.training import slurm
from backend.training.distributed import team_control
from backend.training.executors import leave_cluster, settle
from backend.training.slurm import SlurmOptions, job_script, submit, training_command
from backend.training.trainer import train
from tests.training.fake_learner import fake_build, small_config
from tests.training.fingerprint import fingerprint
from tests.training.steering import child, wait_for


@pytest.fixture
def submitted(store, monkeypatch):
    """A run whose job the cluster has taken but not begun, and the job; what it starts is the small learner."""

    class Executor:
        def __init__(self, **_):
            pass

        def update_parameters(self, **_):
            pass

        def submit(self, job):
            self.job_id = "7"
            jobs.append(pickle.loads(pickle.dumps(job)))
            return self

    jobs = []
    monkeypatch.setattr(submitit, "AutoExecutor", Executor)

    def make(**values):
        config = small_config(**values)
        said = submit(store, config, SlurmOptions("local"))
        run = store.find("latest")
        monkeypatch.setattr(slurm, "training_command", lambda gpus, arguments: child(store, step_seconds=0.002)(run))
        assert f"Run {run.id} is job 7 on local" in said
        assert store.effective_state(run) == "queued"
        return run, jobs[-1]

    return make


def test_a_job_that_is_cut_off_keeps_every_episode_and_goes_on_when_its_turn_comes_again(store, submitted):
    run, job = submitted(episodes=60, save_every=50)
    straight = store.create(run.config)
    train(straight.config, straight, build=fake_build())
    working = threading.Thread(target=job)
    working.start()
    wait_for(lambda: run.status().episode >= 3)
    again = job.checkpoint().function
    working.join(60)
    status = run.status()
    assert (status.state, status.executor) == ("queued", "slurm") and status.episode >= 3
    assert run.checkpoints()[-1].episode == status.episode, "episodes since the last save were lost"
    assert store.effective_state(run) == "queued" and not list(run.control_dir.iterdir())
    assert again() == "completed" and run.status().attempt > status.attempt
    assert fingerprint(run)["policy_updates.csv"] == fingerprint(straight)["policy_updates.csv"]


def test_a_run_is_taken_back_while_its_job_waits_and_the_job_then_does_nothing(store, submitted):
    run, job = submitted()
    assert leave_cluster(run) and not leave_cluster(run)
    assert run.status().state == "stopped" and job() == "stopped" and run.status().episode == 0
    store.delete(run.id)
    alone = store.create(small_config())
    assert not leave_cluster(alone), "a run that waits here is no cluster's"


def test_a_job_whose_child_fails_says_why(submitted, monkeypatch):
    run, job = submitted()
    monkeypatch.setattr(slurm, "training_command", lambda gpus, arguments: [slurm.sys.executable, "-c", "raise SystemExit('no such GPU')"])
    assert job() == "failed" and "no such GPU" in run.status().error


def test_a_refused_job_leaves_no_run(store, monkeypatch):
    def refuse(*_):
        raise submitit.core.utils.FailedJobError("sbatch: error: invalid partition specified: gpuu")

    monkeypatch.setattr(submitit.AutoExecutor, "submit", refuse)
    with pytest.raises(InputError, match="invalid partition specified: gpuu.*check --slurm-partition"):
        submit(store, small_config(), SlurmOptions("local"))
    assert store.list() == []


def test_several_gpus_share_a_run_and_the_script_carries_what_the_run_needs(tmp_path, monkeypatch):
    assert training_command(1, ["train"])[1:] == ["-m", "backend", "train"]
    assert training_command(4, ["train"])[1:] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m", "backend", "train"]
    monkeypatch.setenv("CRATER_PLUGINS", "/home/a b/hue.py")
    script = job_script(small_config(note="it's"), tmp_path / "runs", SlurmOptions("slurm", "gpu", 2, 60))
    assert "export CRATER_PLUGINS='/home/a b/hue.py'" in script and "torch.distributed.run --standalone --nproc-per-node 2 -m backend train" in script
    assert f"#SBATCH --signal=USR2@{slurm.WARNING_SECONDS}" in script and f"--output={tmp_path / 'runs'}/%j" in script, "slurm makes no folder for its logs"
    assert slurm.STOP_SECONDS < slurm.WARNING_SECONDS
    assert """--note 'it'"'"'s'""" in script


def test_what_is_asked_of_a_team_amid_an_episode_waits_until_all_hear_of_it(store):
    class Two:
        def __init__(self, rank, box):
            self.rank, self.box = rank, box

        def broadcast(self, value):
            if self.rank == 0:
                self.box.append(value)
            return self.box[-1]

    run, box = store.create(small_config()), []
    first, second = (team_control(run, Two(rank, box)) for rank in (0, 1))
    run.request("sample_now")
    run.request("stop")
    assert not first.should_stop() and not first.sample_now, "rank 0 would draw a sample, or leave, alone"
    assert [c.turnover() for c in (first, second)] == [False, False] and first.sample_now and second.sample_now
    settle(run, "stopped", "", "")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2"])
def test_the_command_line_stops_gracefully_on_a_signal(name):
    class Asked:
        stopping = False

        def request_stop(self):
            self.stopping = True

    control, before = Asked(), signal.getsignal(getattr(signal, name))
    with stop_on_signals(control):
        signal.raise_signal(getattr(signal, name))
    assert control.stopping and signal.getsignal(getattr(signal, name)) is before
