"""Asking only for what changed: what an upstream said of an answer, as far as it may be sent back (RFC 9110, 8.8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# What is longer, or not in quotes, could mean something else when it is sent back: `*` stands for any body there is.
ETAG = re.compile(r'(W/)?"[!#-~]{0,1000}"')
DATE = re.compile(r"[A-Za-z0-9,: ]{1,40}")


@dataclass(frozen=True)
class KnownResponse:
    """What an upstream last answered to a request, of a page that is in. body: gives None where it is kept no more."""

    etag: str | None
    last_modified: str | None
    digest: bytes
    content_type: str
    body: Callable[[], bytes | None]

    @property
    def conditions(self) -> Mapping[str, str]:
        """The header that asks for an answer only if it is another; an ETag knows better than a time."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.last_modified} if self.last_modified else {}


def etag_of(headers: Mapping[str, str]) -> str | None:
    etag = headers.get("ETag", "")
    return etag if ETAG.fullmatch(etag) else None


def last_modified_of(headers: Mapping[str, str]) -> str | None:
    """Only where it lies before the answer: a time tells seconds, and within one the body may change again."""
    text = headers.get("Last-Modified", "")
    try:
        modified, answered = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("Date", ""))
        return text if DATE.fullmatch(text) and modified < answered else None
    except (TypeError, ValueError, OverflowError):
        return None
