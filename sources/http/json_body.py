"""Decode JSON bodies with exact numbers: int or Decimal, never float. Pure."""

from __future__ import annotations

import json
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import msgspec

from sources.contract import TransientError
from sources.http.words import MAX_WORDS_BYTES, quote_words

_NAN_IF_IMPOSSIBLE = Context(traps=[])
_DECODER = msgspec.json.Decoder(float_hook=Decimal)


def json_list(body: bytes) -> list[Any]:
    """Parse a body as a JSON list; raise TransientError if it is anything else.

    Some upstreams report a rate limit as an error object with status 200. That must not count as an empty page.
    """
    value = read_json(body)
    if not isinstance(value, list):
        raise TransientError(f"expected a list, got {_beginning(body)}", code="unexpected_body")
    return value


def read_json(body: bytes) -> Any:
    """Parse a body as JSON; raise TransientError if it is not JSON, such as an HTML error page."""
    try:
        return _decode(body)
    except RecursionError:
        raise TransientError("expected JSON, got a body that is nested too deeply", code="unexpected_body") from None
    except ValueError:
        raise TransientError(f"expected JSON, got {_beginning(body)}", code="unexpected_body") from None


def _decode(body: bytes) -> Any:
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation):
        # Some servers send NaN, a broken character, or a number that is too long for int or Decimal. Each becomes a
        # value that the record rejects, so that only its own item is rejected.
        text = body.decode("utf-8-sig", "surrogateescape")
        return json.loads(text, parse_float=_number, parse_int=_number, parse_constant=_number)


def _number(text: str) -> int | Decimal:
    """Return the exact number, or a Decimal NaN if it cannot be represented."""
    try:
        return int(text)
    except ValueError:
        return Decimal(text, _NAN_IF_IMPOSSIBLE)


def _beginning(body: bytes) -> str:
    """Return the first words of a body, for messages."""
    return quote_words(body[:MAX_WORDS_BYTES])
