"""Encode and decode cursors. A cursor is the start of the next page, and is valid for one path and its filters."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from app.web.problems import Code, Problem

Id = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
BigId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# Postgres cannot store NUL in text.
Word = Annotated[str, msgspec.Meta(max_length=5000, pattern=r"^[^\x00]*$")]

PAGING_ARGUMENTS = ("cursor", "limit", "members", "count")
"""Arguments that may differ between two pages of one list."""


def encode(path: str, arguments: Mapping[str, Any], key: Any) -> str:
    """Return the cursor of the page that starts after the row with this key."""
    plain = msgspec.json.encode([_digest(path, arguments), key])
    return base64.urlsafe_b64encode(plain).rstrip(b"=").decode()


def decode(text: str, path: str, arguments: Mapping[str, Any], kind: Any) -> Any:
    """Return the key in a cursor, as the type `kind`. Raise a Problem if it is damaged or belongs to another list."""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        digest, key = msgspec.json.decode(plain, type=tuple[str, msgspec.Raw])
        decoded = msgspec.json.decode(key, type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        raise damaged() from None
    if digest != _digest(path, arguments):
        raise _invalid("belongs to another path, other filters or another order")
    return decoded


def damaged() -> Problem:
    return _invalid("is damaged")


def _digest(path: str, arguments: Mapping[str, Any]) -> str:
    filters = {name: value for name, value in arguments.items() if name not in PAGING_ARGUMENTS}
    return sha256(json.dumps([path, filters], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _invalid(detail: str) -> Problem:
    hint = "Send `pagination.next_cursor` with the same other parameters, or start again without a cursor."
    error = {"in": "query", "name": "cursor", "detail": f"The cursor {detail}."}
    return Problem(Code.INVALID_CURSOR, error["detail"], hint=hint, errors=[error])
