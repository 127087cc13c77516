"""Make error texts safe to store and show: without secrets, valid for Postgres, limited in length."""

from __future__ import annotations

from tasks.runtime.logs import hide_secrets

MAX_DETAIL_CHARS = 2000
"""Maximum length of a safe text."""


def safe_text(text: str) -> str:
    """Return the text without secrets, NUL characters and lone surrogates, cut to MAX_DETAIL_CHARS characters."""
    return hide_secrets(text).replace("\x00", "").encode("utf-8", "replace").decode()[:MAX_DETAIL_CHARS]
