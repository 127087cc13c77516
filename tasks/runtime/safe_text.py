"""Text that may be stored and shown to anyone: no secret, nothing that Postgres refuses, bounded in length."""

from __future__ import annotations

from tasks.runtime.logs import hide_secrets

MAX_DETAIL = 2000
"""Characters."""


def safe_text(text: str) -> str:
    """An error's text as it may stand in a row and be read by all: no secret, nothing Postgres refuses, no megabyte."""
    return hide_secrets(text).replace("\x00", "").encode("utf-8", "replace").decode()[:MAX_DETAIL]
