"""A JSON body to Python values, numbers exact: int or Decimal, never float. Pure."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec

from sources.contract import TransientError

_decoder = msgspec.json.Decoder(float_hook=Decimal)


def json_list(body: bytes) -> list[Any]:
    """The list that a body holds. Raises TransientError where it is anything else.

    Upstreams answer a broken backend with HTML, and a rate limit with an error object, both under status 200:
    neither is an empty page.
    """
    try:
        value = _decode(body)
    except ValueError:
        raise TransientError(f"expected JSON, got {_begins(body)}", code="unexpected_body") from None
    if not isinstance(value, list):
        raise TransientError(f"expected a list, got {_begins(body)}", code="unexpected_body")
    return value


def _decode(body: bytes) -> Any:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        # NaN and Infinity are not JSON, yet some servers send them: the items that hold them are rejected, no others.
        return json.loads(body, parse_float=Decimal, parse_constant=str)


def _begins(body: bytes) -> str:
    return ascii(body[:80].decode("utf-8", "replace"))
