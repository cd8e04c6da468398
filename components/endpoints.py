"""Named, documented endpoints for `gradio_client`: start, stop, status, metrics, runs (generate belongs to its tab)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gradio as gr

from backend.config import field_names, upgrade
from backend.errors import InputError
from components import form
from components.context import PageContext
from components.feed import vars_of
from components.login import user_of

MAX_ROWS = 20_000


def _refuse(error: InputError) -> gr.Error:
    return gr.Error(str(error), print_exception=False)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Endpoints:
    """The functions behind the endpoints; each returns plain JSON."""

    def __init__(self, context: PageContext) -> None:
        self.context = context

    def start(self, config: dict, owner: str = "", request: gr.Request | None = None) -> dict:
        """Queue a training run. config: settings by name, the server's defaults for the rest. owner: a token to own the run by, or empty for a new one;
        a user who is logged in owns it by name. Returns {"run_id", "token"}; the token is needed to stop the run on a shared server."""
        try:
            values = {**self.context.default_values(), **upgrade(config, trusted=False, offered=self.context.offered)}
            unknown = sorted(set(values) - set(field_names()))
            if unknown:
                raise InputError(f"unknown setting {unknown[0]!r}: `python -m backend config` lists them all")
            checked = form.to_config(values, self.context)
            form.check_caps(checked, self.context)
            ticket = self.context.manager.start({name: getattr(checked, name) for name in field_names()}, owner=user_of(request) or owner or None)
        except InputError as error:
            raise _refuse(error) from error
        return {"run_id": ticket.run_id, "token": ticket.token}

    def stop(self, run_id: str, token: str = "", request: gr.Request | None = None) -> dict:
        """Stop a run after a checkpoint, or take it out of the queue. Returns {"run_id", "message"}."""
        try:
            asked = self.context.manager.stop(run_id, token or user_of(request))
        except InputError as error:
            raise _refuse(error) from error
        return {"run_id": run_id, "message": "stop requested: a checkpoint is written first" if asked else "it left the queue"}

    def status(self, run_id: str = "") -> dict:
        """State, episode, score, time left and more of one run; of the active or newest one where run_id is empty."""
        try:
            if not run_id:
                newest = self.context.store.newest()
                run_id = self.context.manager.active() or (newest.id if newest else "")
                if not run_id:
                    raise InputError("there is no run yet: start one")
            status = self.context.manager.status(run_id)
        except InputError as error:
            raise _refuse(error) from error
        return {"run_id": run_id, **{key: _plain(value) for key, value in status.items() if isinstance(value, (str, int, float, bool, type(None)))}}

    def metrics(self, run_id: str, since: int = 0) -> dict:
        """The update table of a run by column, from row `since` on (at most 20,000 rows). Returns {"columns", "rows", "attempt"}; start again at 0 when attempt changes."""
        try:
            columns, _, attempt = self.context.run(run_id).read_columns("policy_updates", 0)
        except InputError as error:
            raise _refuse(error) from error
        total = len(columns.get("episode", []))
        start = max(0, int(since))
        return {"columns": {name: [_plain(v) for v in values[start : start + MAX_ROWS]] for name, values in columns.items()}, "rows": total, "attempt": attempt}

    def runs(self) -> dict:
        """All runs, newest first. Returns {"runs": [{"id", "mode", "metric", "state", "episode", "total", "score", "best_score", ...}]}."""
        return {"runs": [{key: _plain(value) for key, value in vars_of(s).items()} for s in self.context.store.list()]}

    def register(self) -> None:
        """Put them on the page's API."""
        functions: list[Callable[..., Any]] = [self.start, self.stop, self.status, self.metrics, self.runs]
        for function in functions:
            gr.api(function, api_name=function.__name__, api_description=" ".join((function.__doc__ or "").split()), queue=False)
