"""The run directory: the only truth about a run. The trainer writes it; everybody else reads it and leaves requests."""

from backend.runs.control import REQUESTS
from backend.runs.ownership import Login, Owner, is_owner, new_owner, set_owner
from backend.runs.run import CheckpointInfo, Run, SampleInfo
from backend.runs.status import LIVE, TERMINAL, Liveness, Status
from backend.runs.store import RunStore, RunSummary
from backend.runs.tables import TABLES


def request(run: Run, kind: str, payload: dict | None = None) -> str:
    """Leave a request (`stop`, `pause`, `resume`, `save_now`, `sample_now`, `change`) for a run's process.

    Returns:
        Its id, named by the event `acknowledgement` that answers it.

    Raises:
        InputError: unknown kind, or the folder cannot be written.
    """
    return run.request(kind, payload)


__all__ = [
    "LIVE", "REQUESTS", "TABLES", "TERMINAL", "CheckpointInfo", "Liveness", "Login", "Owner", "Run", "RunStore", "RunSummary", "SampleInfo", "Status",
    "is_owner", "new_owner", "request", "set_owner",
]  # fmt: skip
