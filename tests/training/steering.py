"""Starting a run in the background, asking how it is, waiting for it, and stopping it at a chosen moment."""

import sys
import threading
import time

from backend.training.control import Control
from backend.training.trainer import train
from tests.training.fake_learner import fake_build


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class StopAt(Control):
    """Stops at the n-th question whether to stop, wherever that falls."""

    def __init__(self, run, count):
        super().__init__(run)
        self.count = count

    def should_stop(self):
        self.count -= 1
        self.stopping = self.stopping or self.count < 0
        return self.stopping


def child(store, executor="process", **keywords):
    """A command that trains with the small learner in a process of its own."""
    arguments = ", ".join(f"{k}={v!r}" for k, v in keywords.items())
    code = (
        "import sys; from backend.runs import RunStore; from backend.training.trainer import train; from backend.training.control import Control; "
        "from backend.cli.watching import stop_on_signals; from tests.training.fake_learner import fake_build; "
        f"run = RunStore({str(store.root)!r}).get(sys.argv[1]); control = Control(run)\n"
        f"with stop_on_signals(control): sys.exit(train(run.config, run, control, build=fake_build({arguments}), executor={executor!r}) == 'failed')"
    )
    return lambda run: [sys.executable, "-c", code, run.id]


def in_background(store, config, **keywords):
    run = store.create(config)
    thread = threading.Thread(target=train, args=(config, run), kwargs={"build": fake_build(**keywords)}, daemon=True)
    thread.start()
    return run, thread


def answers(run):
    return {e["request"]: e for e in run.events() if e["kind"] == "acknowledgement"}


def state(manager, run_id):
    return manager.status(run_id)["effective_state"]
