"""A JSON body to Python values, numbers exact: int or Decimal, never float. Pure."""

from __future__ import annotations

import json
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import msgspec

from sources.contract import TransientError

_NAN_WHERE_IMPOSSIBLE = Context(traps=[])
_decoder = msgspec.json.Decoder(float_hook=Decimal)


def json_list(body: bytes) -> list[Any]:
    """The list that a body holds. Raises TransientError where it is anything else.

    Upstreams answer a rate limit with an error object under status 200: that is not an empty page.
    """
    value = read_json(body)
    if not isinstance(value, list):
        raise TransientError(f"expected a list, got {_begins(body)}", code="unexpected_body")
    return value


def read_json(body: bytes) -> Any:
    """The value of a body. Raises TransientError where it is not JSON: a broken backend answers with HTML."""
    try:
        return _decode(body)
    except RecursionError:
        raise TransientError("expected JSON, got some that is nested too deeply", code="unexpected_body") from None
    except ValueError:
        raise TransientError(f"expected JSON, got {_begins(body)}", code="unexpected_body") from None


def _decode(body: bytes) -> Any:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation):
        # Some servers send NaN, a broken character, a number too long for int or Decimal. What holds one of them
        # becomes a value that no field of the record takes, so that its item is rejected and no other.
        text = body.decode("utf-8-sig", "surrogateescape")
        return json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_number)


def _number(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:
        return Decimal(text, _NAN_WHERE_IMPOSSIBLE)


def _begins(body: bytes) -> str:
    return ascii(body[:80].decode("utf-8", "replace"))
