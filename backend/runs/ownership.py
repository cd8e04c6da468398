"""Who may steer a run: the holder of the token that Start gave out, or the user who was logged in. Only hashes are on disk."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from backend.runs.files import read_json, write_json
from backend.runs.run import Run


@dataclass(frozen=True)
class Login:
    """A user whom the server has let in. Never made of what a client sends: a token is a string, a login is none."""

    name: str


Owner = str | Login


def new_owner() -> str:
    """A random token for a browser or a caller."""
    return secrets.token_urlsafe(24)


def set_owner(run: Run, token: str, login: Login | None = None) -> None:
    """Remember the token's hash, and the user's, in the run's folder (it is left out of downloads)."""
    write_json(run.owner_path, {"sha256": _hash(token), **({"login_sha256": _hash(login.name)} if login else {})})


def is_owner(run: Run, who: Owner | None) -> bool:
    """Whether this is the token that Start gave out for the run, or the user who was logged in at Start."""
    key, word = ("login_sha256", who.name) if isinstance(who, Login) else ("sha256", who)
    known = (read_json(run.owner_path) or {}).get(key)
    return bool(word) and isinstance(known, str) and hmac.compare_digest(known, _hash(str(word)))


def _hash(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()
