"""What an upstream's answer means: a body to take, a place to ask at, a refusal, or to come again later."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from sources.contract import TerminalError, TransientError

CHUNK = 64 * 1024

REFUSALS = {
    400: ("upstream_refused", None),
    401: ("key_refused", timedelta(hours=1)),
    # A paid endpoint or a used-up quota: asking again only costs more.
    402: ("payment_required", timedelta(days=1)),
    403: ("key_refused", timedelta(hours=1)),
    404: ("upstream_refused", None),
    422: ("upstream_refused", None),
}


def check_status(source: str, response: requests.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    said = f"{source}: answered {status} to GET {urlsplit(response.url).path}"
    if status in REFUSALS:
        code, pause = REFUSALS[status]
        raise TerminalError(said, code=code, pause=pause)
    if status == 304:
        raise TransientError(f"{said}, which had set no condition", code="unexpected_status")
    if status in (408, 425, 429) or status >= 500:
        code = "rate_limited" if status == 429 else "upstream_unavailable"
        raise TransientError(said, code=code, retry_after=_retry_after(response))
    raise TerminalError(said)


def _retry_after(response: requests.Response) -> float | None:
    """Seconds asked for by Retry-After in either form, up to 6 hours; None where it says nothing useful."""
    try:
        seconds = Retry().parse_retry_after(response.headers.get("Retry-After", ""))
    except (HTTPError, ValueError, OverflowError):
        return None
    return float(seconds) if seconds > 0 else None


def redirected_to(source: str, response: requests.Response, base: str) -> str:
    """Where a redirect leads, if that is the base URL's origin: the key must not travel."""
    try:
        target = requests.compat.urljoin(response.url, response.headers["Location"])
        origin = _origin(target)
    except ValueError:
        raise TerminalError(f"{source}: redirected to what is no URL; not followed", code="redirected") from None
    if origin != _origin(base):
        shown = "{}://{}:{}".format(*origin)
        raise TerminalError(f"{source}: redirected to another origin, {shown}; not followed", code="redirected")
    return target


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def read_body(source: str, response: requests.Response, max_body: int) -> bytes:
    """The unpacked body, whole."""
    body = bytearray()
    for chunk in response.iter_content(CHUNK):
        body += chunk
        if len(body) > max_body:
            raise TerminalError(f"{source}: the body is larger than {max_body} bytes", code="body_too_large")
    return bytes(body)


def check_body(source: str, body: bytes, keys: Collection[str]) -> None:
    """Bodies are kept as they came, and shown: one that says our key back must not be."""
    if any(key.encode() in body for key in keys):
        raise TransientError(f"{source}: the answer repeats the key it was asked with", code="unexpected_body")
