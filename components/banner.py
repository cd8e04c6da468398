"""The state of a run in words: banner, progress, alerts, log. Pure functions from status to HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.config import field_meta, field_names
from backend.runs.events import standing_news
from components.markup import Raw, duration, note, number, text

LIVE_FIELDS = tuple(name for name in field_names() if field_meta(name)["live"])
ENDED_WELL = ("completed", "recorded")  # whose sentence says what to do next, behind the run's own words
TITLES = {
    "queued": "Queued",
    "starting": "Starting",
    "running": "Training",
    "paused": "Paused",
    "stopping": "Stopping",
    "stopped": "Stopped",
    "completed": "Completed",
    "failed": "Failed",
    "interrupted": "Interrupted",
    "recorded": "Recorded run",
}
SENTENCES = {
    "queued": "Waits for the run before it.",
    "starting": "Loads the model and encodes the prompts.",
    "running": "The policy is learning; closing this page changes nothing.",
    "paused": "Holds between two episodes; Resume goes on from here.",
    "stopping": "Finishes the present step, writes a checkpoint, then ends.",
    "stopped": "Ended on request; Resume continues from its checkpoint.",
    "completed": "Compare shows what was learnt.",
    "failed": "Ended with an error; the log and the last checkpoint are kept.",
    "interrupted": "Its process is gone, but nothing is lost: Resume continues exactly from the last checkpoint.",
    "recorded": "Recorded earlier and shown as an example. Press Start to train one of your own.",
}


def banner(run: Any, status: dict[str, Any]) -> str:
    """State, sentence, progress and figures of a run as one HTML card."""
    state = status["effective_state"]
    done, total = int(status.get("episode") or 0), int(status.get("total") or 0)
    share = 100 * min(1.0, done / total) if total else 0.0
    config = run.config
    facts = "".join(f"<div>{text(label)}<b>{value}</b></div>" for label, value in _facts(status, state, done, total))
    phase = status.get("phase") or ""
    step = f", step {status['step']} of {status['steps']}" if status.get("steps") else ""
    working = f" Now: {phase}{step}." if phase and state in {"starting", "running", "stopping"} else ""
    sentence = (status.get("error") if state == "failed" else "") or status.get("waiting") or _queue_sentence(status, state)
    trend = status.get("trend") or ""
    tag = f' <span class="tag">{text(trend.lower())}</span>' if trend and state in {"running", "paused", "stopped", "completed", "recorded"} else ""
    name = f'{text(config.mode)} · {text(config.metric)} · <span class="mono">{text(run.id)}</span>'
    bar = f'aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}"'
    return (
        f'<div class="banner" data-state="{text(state)}" data-run="{text(run.id)}" data-episode="{done}" role="status">'
        f'<div class="banner-top"><span class="banner-state">{text(TITLES.get(state, state))}</span>{tag}<span class="banner-id">{name}</span></div>'
        f'<div class="banner-sentence">{text(sentence)}{text(working)}</div>'
        f'<div class="meter" role="progressbar" aria-label="episodes done" {bar}><i style="width:{share:.1f}%"></i></div>'
        f'<div class="facts">{facts}</div></div>'
    )


def _queue_sentence(status: dict[str, Any], state: str) -> str:
    if state == "queued":
        return f"Place {status['place']} in the queue; it can leave at any time." if status.get("place") else "About to start."
    said, sentence = str(status.get("message") or ""), SENTENCES.get(state, "")
    if said and state in ENDED_WELL:
        return f"{said[0].upper()}{said[1:].rstrip('.')}. {sentence}"
    return said or sentence


def _facts(status: dict[str, Any], state: str, done: int, total: int) -> list[tuple[str, str]]:
    facts = [("Episode", f"{number(done)} of {number(total)}")]
    if state in {"running", "starting", "paused", "stopping"}:
        eta = status.get("eta_seconds")
        facts.append(("Time left", "estimating" if eta is None else duration(eta)))
    if status.get("seconds_per_episode"):
        facts.append(("An episode", f"{status['seconds_per_episode']:.1f} s"))
    for label, key in (("Group score", "score"), ("Best", "best_score"), ("Base model", "base_level")):
        if status.get(key) is not None:
            facts.append((label, number(status[key])))
    place = " · ".join(str(p) for p in (status.get("device"), status.get("executor")) if p)
    if place:
        facts.append(("Runs on", text(place)))
    if status.get("memory_mib"):
        facts.append(("Memory", f"{status['memory_mib'] / 1024:.2f} GiB"))
    if status.get("skipped"):
        facts.append(("Skipped updates", number(status["skipped"])))
    return facts


def alerts(events: Sequence[dict[str, Any]], status: dict[str, Any]) -> str:
    """Newest alerts, refusals and applied changes of the present attempt that still hold, newest first, as notes."""
    notes = []
    for event in reversed(standing_news(events)):
        kind, episode = event.get("kind"), event.get("episode")
        when = f" (episode {episode})" if episode is not None else ""
        if kind == "alert":
            level = "bad" if event.get("level") == "error" else "warn"
            notes.append(note(f"{event.get('message', '')}{when}", level))
        elif kind == "acknowledgement" and not event.get("accepted", True):
            notes.append(note(f"Refused: {event.get('message', '')}", "warn"))
        elif kind == "change":
            name = event.get("field")
            label = field_meta(name)["label"] if name in LIVE_FIELDS else name
            notes.append(note(f"{label} changed to {number(event.get('value'))}{when}", "info"))
        if len(notes) == 5:
            break
    return "".join(notes)


def log(lines: str) -> str:
    """The log's tail in a box that scrolls by itself."""
    return f'<div class="log" tabindex="0" role="log" aria-label="training log">{text(lines) or "The log is empty so far."}</div>'


def nothing_yet() -> Raw:
    """The banner where neither a run nor a recorded one exists."""
    sentence = "No run yet. Press Start: the first point of the curve appears within seconds."
    title = '<div class="banner-top"><span class="banner-state">Ready</span></div>'
    return Raw(f'<div class="banner" data-state="none" data-run="">{title}<div class="banner-sentence">{sentence}</div></div>')
