"""Secrets of the environment never reach a log, a status or a report."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL|PRIVATE", re.IGNORECASE)
SHORTEST = 6  # shorter values are words that occur by themselves


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text with the values of secret environment variables, and anything shaped like a hub token, struck out."""
    environ = os.environ if environ is None else environ
    secrets = sorted((v for k, v in environ.items() if SECRET_NAME.search(k) and len(v) >= SHORTEST), key=len, reverse=True)
    for secret in secrets:
        text = text.replace(secret, "***")
    return re.sub(r"\bhf_[A-Za-z0-9]{16,}", "***", text)
