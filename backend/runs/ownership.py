"""Who may steer a run: the holder of the token that Start gave out. Only its hash is on disk."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from backend.runs.files import read_json, write_json
from backend.runs.run import Run


def new_owner() -> str:
    """A random token for a browser or a caller."""
    return secrets.token_urlsafe(24)


def set_owner(run: Run, token: str) -> None:
    """Remember the token's hash in the run's folder (it is left out of downloads)."""
    write_json(run.owner_path, {"sha256": hashlib.sha256(token.encode()).hexdigest()})


def is_owner(run: Run, token: str | None) -> bool:
    """Whether a token is the one that Start gave out for this run."""
    known = (read_json(run.owner_path) or {}).get("sha256")
    return bool(token) and isinstance(known, str) and hmac.compare_digest(known, hashlib.sha256(str(token).encode()).hexdigest())
