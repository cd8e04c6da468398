"""From values to HTML: everything typed or uploaded goes through `text` first."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

CODE = re.compile(r"`([^`]+)`")


def text(value: Any) -> str:
    """Escaped for HTML content and for quoted attributes."""
    return html.escape(str(value), quote=True)


def prose(value: Any) -> str:
    """Escaped, with what stands between backticks as code: messages name commands that way."""
    return CODE.sub(r"<code>\1</code>", text(value))


def number(value: Any, digits: int = 4) -> str:
    """A number in words a person reads: significant digits, the minus of the charts, a dash for nothing."""
    if value is None:
        return "–"
    try:
        value = float(value)
    except (TypeError, ValueError):
        return text(value)
    if not math.isfinite(value):
        return "–"
    words = f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.{digits}g}"
    return f"−{words[1:]}" if words.startswith("-") else words


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "", kind: str = "") -> str:
    """An HTML table in a box that scrolls by itself; cells are escaped unless they are `Raw`."""

    def cells(row: Sequence[Any]) -> str:
        return "".join(f"<td>{cell if isinstance(cell, Raw) else text(cell)}</td>" for cell in row)

    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    names = "".join(f"<th scope=col>{text(h)}</th>" for h in head)
    return f'<div class="scroll-x" tabindex="0"><table class="plain {text(kind)}">{title}<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'


class Raw(str):
    """HTML made here from escaped parts, to be put in as it is."""


def note(message: str, kind: str = "info") -> str:
    """One sentence in a box; kinds: info, good, warn, bad. The kind is also said in words by the sentence itself."""
    role = "alert" if kind in {"bad", "warn"} else "status"
    return f'<div class="note note-{text(kind)}" role="{role}">{prose(message)}</div>' if message else ""


def empty(title: str, hint: str) -> str:
    """What stands where nothing is yet: says what will be here and how to get it."""
    return f'<div class="empty"><strong>{text(title)}</strong><span>{prose(hint)}</span></div>'
