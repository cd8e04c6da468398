"""Who asks: the browser by its token, or a user whom the server let in (`--auth FILE`, or a Space's own login)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request

from backend.errors import InputError
from backend.runs import Login, Owner


def read_accounts(path: str | Path) -> list[tuple[str, str]]:
    """Names and passwords of a file, one `name:password` a line; empty lines and lines that begin with # are skipped.

    Raises:
        InputError: no such file, no account in it, a line without name or password, or a name twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"accounts file {path} cannot be read ({error}): give a text file with one name:password a line") from error
    accounts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, password = line.strip().partition(":")
        if not name.strip() or not password or name.strip() in accounts:
            raise InputError(f"accounts file {path}, line {number}: write name:password, each name once")
        accounts[name.strip()] = password
    if not accounts:
        raise InputError(f"accounts file {path} names nobody: write one name:password a line")
    return list(accounts.items())


def user_of(request: gr.Request | None) -> Login | None:
    """The user who is logged in, if the server asked for a login or the visitor used the Space's."""
    if request is None:
        return None
    if request.username:
        return Login(request.username)
    scope = getattr(request.request, "scope", None) or {}
    name = ((scope.get("session") or {}).get("oauth_info") or {}).get("userinfo", {}).get("preferred_username")
    return Login(name) if isinstance(name, str) and name else None


def token_of(visitor: Any) -> str | None:
    """The browser's token, if it has one."""
    token = visitor.get("owner") if isinstance(visitor, dict) else None
    return token if isinstance(token, str) and len(token) <= 200 else None


def owner_of(visitor: Any, request: gr.Request | None) -> Owner | None:
    """As whom a visitor of the page acts: the user who is logged in, else the browser's token."""
    return user_of(request) or token_of(visitor)


def let_in(request: Request) -> bool:
    """Whether a request to one of the page's own routes comes from somebody who may see the page."""
    app = request.app
    if getattr(app, "auth", None) is None:
        return True
    kept = (request.cookies.get(f"access-token-{app.cookie_id}"), request.cookies.get(f"access-token-unsecure-{app.cookie_id}"))
    return any(token in app.tokens for token in kept if token)
