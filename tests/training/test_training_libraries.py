"""Libraries that import themselves in circles are imported by one thread at a time."""

from __future__ import annotations

import subprocess
import sys

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
