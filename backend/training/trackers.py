"""Optional trackers: the same figures also go to TensorBoard or Trackio where one is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs import Run
from backend.training.recorder import Recorder


@contextmanager
def track(config: TrainConfig, run: Run, recorder: Recorder) -> Iterator[None]:
    """Send each episode's numbers to the settings' tracker within the block.

    Raises:
        InputError: the tracker is not installed.
    """
    if config.tracker == "none":
        yield
        return
    write, close = _tensorboard(run) if config.tracker == "tensorboard" else _trackio(config, run)
    inner = recorder.observe

    def observe(kind: str, content: dict[str, Any]) -> None:
        inner(kind, content)
        if kind == "episode":
            write({k: v for k, v in content.items() if isinstance(v, int | float) and not isinstance(v, bool)}, int(content["episode"]))

    recorder.observe = observe
    try:
        yield
    finally:
        recorder.observe = inner
        close()


def check_tracker(config: TrainConfig) -> None:
    """See before the start whether the tracker is there.

    Raises:
        InputError: it is not installed.
    """
    import importlib.util

    module = {"tensorboard": "tensorboard", "trackio": "trackio"}.get(config.tracker)
    if module and importlib.util.find_spec(module) is None:
        raise InputError(f"tracker {config.tracker!r} is not installed: `pip install {module}`, or set tracker to none", field="tracker")


def _tensorboard(run: Run) -> tuple[Any, Any]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.path / "tensorboard"))

    def write(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write, writer.close


def _trackio(config: TrainConfig, run: Run) -> tuple[Any, Any]:
    import trackio

    trackio.init(project="craterlab", name=run.id, config=config.model_dump())
    return (lambda numbers, step: trackio.log(numbers, step=step)), trackio.finish
