"""Which run a viewer sees, and as whom: the attach order, the browser's memory and the owner's token."""

from __future__ import annotations

from typing import Any

import gradio as gr

from backend.errors import InputError
from backend.runs import new_owner
from components.context import MOST_LISTED, PageContext
from components.login import token_of

STORAGE_KEY, STORAGE_SECRET = "craterlab-visitor", "craterlab"


def visitor_state() -> gr.BrowserState:
    """What this browser remembers: its owner token and the run it looked at last."""
    return gr.BrowserState({}, storage_key=STORAGE_KEY, secret=STORAGE_SECRET)


def greet(visitor: Any) -> dict[str, Any]:
    """The visitor's record with a token, a new one for a new browser."""
    visitor = dict(visitor) if isinstance(visitor, dict) else {}
    if not token_of(visitor):
        visitor["owner"] = new_owner()
    return visitor


def view_of(run_id: str, source: str) -> dict[str, Any]:
    """What a viewer looks at."""
    return {"run": run_id, "source": source}


def attach(context: PageContext, visitor: dict[str, Any], asked: str = "") -> dict[str, Any]:
    """The run to show: `?run=` → last run of this browser → active run → newest run → recorded run.

    A run whose settings cannot be read is shown only to who asks for it.

    Args:
        context: shared state.
        visitor: the browser's memory.
        asked: the address's `run` parameter.
    """
    active = context.manager.active()
    live = context.store.newest(live=True, readable=True)
    newest = context.store.newest(readable=True)
    wanted = [asked, visitor.get("last_run", ""), active or "", live.id if live else "", newest.id if newest else ""]
    for run_id in wanted:
        source = context.source_of(run_id) if isinstance(run_id, str) and run_id else None
        if source and (run_id == asked or context.run(run_id, source).readable):
            return view_of(run_id, source)
    recorded = context.demo.newest(readable=True)
    return view_of(recorded.id, "demo") if recorded else view_of("", "runs")


def run_choices(context: PageContext) -> list[tuple[str, str]]:
    """Runs for a dropdown: label and `source/id`, newest first, the recorded ones last."""
    choices = [(f"{s.mode} · {s.metric} · {s.id}", f"runs/{s.id}") for s in context.store.list()[:MOST_LISTED]]
    return choices + [(f"Recorded · {s.mode} · {s.metric} · {s.id}", f"demo/{s.id}") for s in context.demo.list()]


def parse_choice(choice: Any) -> tuple[str, str]:
    """Source and run id of a dropdown's value.

    Raises:
        InputError: it is none.
    """
    source, _, run_id = str(choice or "").partition("/")
    if source not in {"runs", "demo"} or not run_id:
        raise InputError("choose a run first")
    return source, run_id
