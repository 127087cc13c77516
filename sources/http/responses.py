"""Interpret responses: as a body, a redirect, a terminal error or a transient error."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from sources.contract import TerminalError, TransientError

CHUNK_BYTES = 64 * 1024

VALUE_MARKS = (b",", b"[", b"{")
"""Each value of a JSON body comes after one of these. Texts may contain them, too, so the count is an upper limit."""

# By status: the error's code, and how long the source is paused.
TERMINAL_STATUSES = {
    400: ("upstream_refused", None),
    401: ("key_refused", timedelta(hours=1)),
    # A paid endpoint or an exhausted quota: further requests would only cost more.
    402: ("payment_required", timedelta(days=1)),
    403: ("key_refused", timedelta(hours=1)),
    404: ("upstream_refused", None),
    422: ("upstream_refused", None),
}


def check_status(source: str, response: requests.Response) -> None:
    """Raise TransientError or TerminalError for any status but 200."""
    status = response.status_code
    if status == 200:
        return
    detail = f"{source}: returned {status} for GET {urlsplit(response.url).path}"
    if status in TERMINAL_STATUSES:
        code, pause = TERMINAL_STATUSES[status]
        raise TerminalError(detail, code=code, pause=pause)
    if status == 304:
        raise TransientError(f"{detail}, although the request was not conditional", code="unexpected_status")
    if status in (408, 425, 429) or status >= 500:
        code = "rate_limited" if status == 429 else "upstream_unavailable"
        raise TransientError(detail, code=code, retry_after=_retry_after(response))
    raise TerminalError(detail)


def _retry_after(response: requests.Response) -> float | None:
    """Return the delay in the header Retry-After in seconds, at most 6 hours; None if it has no valid delay."""
    try:
        seconds = Retry().parse_retry_after(response.headers.get("Retry-After", ""))
    except (HTTPError, ValueError, OverflowError):
        return None
    return float(seconds) if seconds > 0 else None


def resolve_redirect(source: str, response: requests.Response, base: str) -> str:
    """Return the target of a redirect; raise TerminalError if its origin differs from the base URL's.

    The key must not be sent to another origin.
    """
    try:
        target = requests.compat.urljoin(response.url, response.headers["Location"])
        origin = _origin(target)
    except ValueError:
        raise TerminalError(
            f"{source}: redirected to an invalid URL, which was not followed", code="redirected"
        ) from None
    if origin != _origin(base):
        text = "{}://{}:{}".format(*origin)
        raise TerminalError(
            f"{source}: redirected to another origin, {text}; not followed. If you trust it, set {source.upper()}_URL",
            code="redirected",
        )
    return target


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def read_body(source: str, response: requests.Response, max_body: int, max_values: int) -> bytes:
    """Return the whole body, decompressed; raise TerminalError if it exceeds `max_body` bytes or `max_values` values.

    A value of two bytes takes a hundred bytes of memory once it is parsed. So the values are counted, without parsing.
    """
    body, values = bytearray(), 0
    for chunk in response.iter_content(CHUNK_BYTES):
        body += chunk
        values += sum(map(chunk.count, VALUE_MARKS))
        if values > max_values:
            raise TerminalError(
                f"{source}: the body has more than {max_values} values; request less at a time, or raise "
                f"MAX_BODY_VALUES and the worker's memory. It starts with {body[:80].decode('utf-8', 'replace')!a}",
                code="body_too_large",
            )
        if len(body) > max_body:
            raise TerminalError(
                f"{source}: the body is larger than {max_body} bytes; raise MAX_BODY_BYTES", code="body_too_large"
            )
    return bytes(body)


def check_body(source: str, body: bytes, keys: Collection[str]) -> None:
    """Raise TransientError if a body contains our key, since bodies are archived and shown unchanged."""
    if any(key.encode() in body for key in keys):
        raise TransientError(f"{source}: the response contains the key of the request", code="unexpected_body")
