"""Where the next page of a list starts: a keyset, opaque to readers, good for the filters it was given out for."""

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
# Postgres's text cannot hold NUL.
Word = Annotated[str, msgspec.Meta(max_length=5000, pattern=r"^[^\x00]*$")]

UNFILTERED = ("cursor", "limit", "members", "count")
"""What may differ between two pages of one list."""


def encode(path: str, arguments: Mapping[str, Any], key: Any) -> str:
    """The cursor after the row with this key."""
    plain = msgspec.json.encode([_digest(path, arguments), key])
    return base64.urlsafe_b64encode(plain).rstrip(b"=").decode()


def decode(text: str, path: str, arguments: Mapping[str, Any], kind: Any) -> Any:
    """The key that a cursor carries, of that kind; raises a Problem if it is damaged or of another list."""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        digest, key = msgspec.json.decode(plain, type=tuple[str, msgspec.Raw])
        found = msgspec.json.decode(key, type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError):
        raise damaged() from None
    if digest != _digest(path, arguments):
        raise _invalid("was given out for other filters, another order or another path")
    return found


def damaged() -> Problem:
    return _invalid("is damaged: it is not one that this API gave out")


def _digest(path: str, arguments: Mapping[str, Any]) -> str:
    filters = {name: value for name, value in arguments.items() if name not in UNFILTERED}
    return sha256(json.dumps([path, filters], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _invalid(detail: str) -> Problem:
    hint = (
        "Take the cursor from pagination.next_cursor and repeat the other parameters as they were, or start without it."
    )
    error = {"in": "query", "name": "cursor", "detail": f"The cursor {detail}."}
    return Problem(Code.INVALID_CURSOR, error["detail"], hint=hint, errors=[error])
