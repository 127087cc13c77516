"""Build conditional requests: choose the validators of a response that may be sent back (RFC 9110, section 8.8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# Accept only short and quoted ETags. The unquoted ETag `*` would match any body.
ETAG = re.compile(r'(W/)?"[!#-~]{0,1000}"')
DATE = re.compile(r"[A-Za-z0-9,: ]{1,40}")


@dataclass(frozen=True)
class KnownResponse:
    """The last response to a request whose page was committed.

    digest: the SHA-256 of the body.
    body:   reads the stored body; returns None if it was deleted.
    """

    etag: str | None
    last_modified: str | None
    digest: bytes
    content_type: str
    body: Callable[[], bytes | None]

    @property
    def conditions(self) -> Mapping[str, str]:
        """Return the header that makes a request conditional. Prefer the ETag, since it is more exact than a time."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.last_modified} if self.last_modified else {}


def read_etag(headers: Mapping[str, str]) -> str | None:
    """Return the ETag of a response, or None if it has none that can be sent back."""
    etag = headers.get("ETag", "")
    return etag if ETAG.fullmatch(etag) else None


def read_last_modified(headers: Mapping[str, str]) -> str | None:
    """Return Last-Modified, or None if it is invalid or not earlier than the response's Date.

    Both are exact to one second, and the body may change again within that second.
    """
    text = headers.get("Last-Modified", "")
    try:
        modified_at, responded_at = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("Date", ""))
        return text if DATE.fullmatch(text) and modified_at < responded_at else None
    except (TypeError, ValueError, OverflowError):
        return None
