"""Libraries that import themselves in circles are imported by one thread at a time; what they keep of the device is given back."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from backend.training import episodes
from backend.training.episodes import EpisodeLoop
from backend.training.libraries import free_cached_memory
from backend.training.live import LENT

SCRIPT = """
import sys, threading, traceback
from backend.runs import RunStore
from backend.training.host import Host
from backend.training.libraries import import_trainer

failures = []
host = Host(RunStore(sys.argv[1]))


def load():
    with host.device("drawing"):
        from backend.config import TrainConfig
        from backend.training.session import build_session

        build_session(TrainConfig())


def guarded(work):
    try:
        work()
    except Exception:
        failures.append(traceback.format_exc())


threads = [threading.Thread(target=guarded, args=(work,)) for work in (import_trainer, load)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit("\\n".join(failures) or None)
"""


def test_drawing_while_the_page_still_imports_the_trainer(tmp_path):
    """Did `Host.device` not import the trainer first, one of the two threads would see a half-made module of transformers, every time."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_cached_memory_of_the_gpu_is_given_back_only_where_a_gpu_was_used(monkeypatch):
    emptied = []

    def torch_of(used):
        return SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: used, empty_cache=lambda: emptied.append(used)))

    for torch in (None, SimpleNamespace(), torch_of(False), torch_of(True)):  # absent, half imported, of the CPU, of a GPU
        monkeypatch.setitem(sys.modules, "torch", torch)
        free_cached_memory()
    assert emptied == [True]


def test_a_trainer_frees_its_cache_before_it_says_that_the_device_is_lent(monkeypatch):
    told = []
    loop = EpisodeLoop.__new__(EpisodeLoop)
    loop.recorder = SimpleNamespace(status=SimpleNamespace(state="running", phase=""))

    def update(phase):
        told.append(phase)
        loop.recorder.status.phase = phase

    loop.recorder.writer = SimpleNamespace(update=update)
    monkeypatch.setattr(episodes, "free_cached_memory", lambda: told.append("freed"))
    for lent in (True, True, False, True):
        loop._show_waiting(False, lent)
    assert told == ["freed", LENT, "", "freed", LENT]
