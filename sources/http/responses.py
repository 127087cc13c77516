"""Interpret responses: as a body, a redirect, a terminal error or a transient error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from sources.contract import TerminalError, TransientError
from sources.http.deadline import Deadline
from sources.http.words import MAX_WORDS_BYTES, quote_words

CHUNK_BYTES = 64 * 1024

VALUE_MARKS = (b",", b"[", b"{")
"""Each value of a JSON body comes after one of these. Texts may contain them, too, so the count is an upper limit."""

WORDS_SECONDS = 2.0
"""Seconds to wait for the body of a refusal. It may be late or endless, and the refusal is known without it."""

WORDS_CHUNK_BYTES = 512
"""A small size, so that the part of a body that arrived is not lost if the rest does not."""

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
CODES_WITHOUT_KEY = {401: "key_missing", 403: "upstream_forbidden"}
"""The codes of these statuses if no key was sent, so that nobody looks for a mistake in a key."""


class Unauthorized(TerminalError):
    """The upstream returned 401. If the key is a token, a new one may help."""


def read_words(response: requests.Response, deadline: Deadline, hide: Callable[[str], str]) -> str:
    """Return the first words of a refused response, as the end of a message. Return "" if it has none.

    hide: removes secrets, which the upstream may repeat.
    """
    body = bytearray()
    with suppress(requests.RequestException, HTTPError, OSError), deadline.shortened(WORDS_SECONDS):
        for chunk in response.iter_content(WORDS_CHUNK_BYTES):
            body += chunk
            if len(body) >= MAX_WORDS_BYTES:
                break
    if not body.strip():
        return ""
    return f"; it says {quote_words(bytes(body), response.headers.get('Content-Type', ''), hide)}"


def check_status(source: str, response: requests.Response, read: Callable[[], str], *, has_key: bool) -> None:
    """Raise TransientError or TerminalError for any status but 200.

    read:    returns the words of the response, as `read_words` does.
    has_key: whether the request carried a key.
    """
    status = response.status_code
    if status == 200:
        return
    detail = f"{source}: returned {status} for {response.request.method} {urlsplit(response.url).path}"
    if status == 304:
        raise TransientError(f"{detail}, although the request was not conditional", code="unexpected_status")
    detail = _with_missing_key(status, detail, has_key) + read()
    if status in TERMINAL_STATUSES:
        code, pause = TERMINAL_STATUSES[status]
        code = code if has_key else CODES_WITHOUT_KEY.get(status, code)
        raise (Unauthorized if status == 401 else TerminalError)(detail, code=code, pause=pause)
    if status in (408, 425, 429) or status >= 500:
        code = "rate_limited" if status == 429 else "upstream_unavailable"
        raise TransientError(detail, code=code, retry_after=_retry_after(response))
    raise TerminalError(detail)


def _with_missing_key(status: int, detail: str, has_key: bool) -> str:
    return f"{detail}, and no key was sent" if status in CODES_WITHOUT_KEY and not has_key else detail


def _retry_after(response: requests.Response) -> float | None:
    """Return the delay in the header Retry-After in seconds, at most 6 hours; None if it has no valid delay."""
    try:
        seconds = Retry().parse_retry_after(response.headers.get("Retry-After", ""))
    except (HTTPError, ValueError, OverflowError):
        return None
    return float(seconds) if seconds > 0 else None


def resolve_redirect(source: str, response: requests.Response, base: str, read: Callable[[], str]) -> str:
    """Return the target of a redirect; raise TerminalError if it must not be followed.

    The key must not be sent to another origin. A redirect that turns POST into GET would lose the body.
    """
    if response.request.method == "POST" and response.status_code not in (307, 308):
        raise TerminalError(
            f"{source}: returned the redirect {response.status_code} for POST {urlsplit(response.url).path}; not "
            f"followed, because only 307 and 308 keep the body. If it moved, set {source.upper()}_URL{read()}",
            code="redirected",
        )
    try:
        target = requests.compat.urljoin(response.url, response.headers["Location"])
        origin = origin_of(target)
    except ValueError:
        raise TerminalError(
            f"{source}: redirected to an invalid URL, which was not followed{read()}", code="redirected"
        ) from None
    if origin != origin_of(base):
        # Keep the case of the host, so that a secret in it is recognized and hidden.
        text = f"{origin[0]}://{urlsplit(target).netloc.rpartition('@')[2]}"
        raise TerminalError(
            f"{source}: redirected to another origin, {text}; not followed. If you trust it, set "
            f"{source.upper()}_URL{read()}",
            code="redirected",
        )
    return target


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Return the scheme, host and port of a URL; raise ValueError if it is invalid."""
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
                f"MAX_BODY_VALUES and the worker's memory; it says {_quote(response, body)}",
                code="body_too_large",
            )
        if len(body) > max_body:
            raise TerminalError(
                f"{source}: the body is larger than {max_body} bytes; raise MAX_BODY_BYTES", code="body_too_large"
            )
    return bytes(body)


def _quote(response: requests.Response, body: bytearray) -> str:
    return quote_words(bytes(body[:MAX_WORDS_BYTES]), response.headers.get("Content-Type", ""))


def check_body(
    source: str,
    response: requests.Response,
    body: bytes,
    is_secret: Callable[[bytes], bool],
    hide: Callable[[str], str],
) -> None:
    """Raise TransientError if a body repeats a secret of the request, since bodies are archived and shown unchanged."""
    if is_secret(body):
        words = quote_words(body[:MAX_WORDS_BYTES], response.headers.get("Content-Type", ""), hide)
        raise TransientError(
            f"{source}: the response contains the key of the request; it says {words}", code="unexpected_body"
        )
