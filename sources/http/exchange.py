"""Send one request to an upstream within its limits and the deadline, and interpret the response."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from sources.contract import TerminalError, TransientError
from sources.http.authentication import Authenticator
from sources.http.deadline import Deadline
from sources.http.responses import check_body, check_status, read_body, read_words, resolve_redirect

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
"""Seconds that a single read from the connection may take."""

HOST_FAILURES = ("upstream_unavailable", "upstream_slow")
"""The codes of errors that concern the whole host instead of one request. They open its circuit breaker."""


@dataclass(frozen=True)
class Access:
    """The settings and callbacks for requests to one upstream.

    url:            the base URL.
    auth:           adds the key to each request.
    deadline:       the maximum duration of one request in seconds, including retries and redirects.
    max_body_bytes: the maximum size of a decompressed body.
    max_body_values: the maximum number of members of all lists and objects in a body.
    spend:          called before each request; raises TransientError if the rate limit, budget or breaker forbids it.
    record_result:  called after each request with True, or with False for an error in HOST_FAILURES.
    clock:          returns the time for `Response.fetched_at` (aware, UTC).
    contact:        the address of the operator in `User-Agent`, or None.
    """

    source: str
    url: str
    auth: Authenticator
    deadline: float
    max_body_bytes: int
    max_body_values: int
    spend: Callable[[], None]
    record_result: Callable[[bool], None]
    clock: Callable[[], datetime]
    contact: str | None = None


@dataclass(frozen=True)
class Outgoing:
    """A request to send. data: a JSON body, or the members of a form."""

    method: str
    url: str
    auth: Callable[[requests.PreparedRequest], requests.PreparedRequest]
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes | Mapping[str, str] | None = None
    is_conditional: bool = False
    base: str = ""
    """The URL whose origin a redirect must not leave. Empty: no redirect is followed."""

    is_archived: bool = True
    """Whether the body is stored, so that it must not repeat a secret."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request: a body, a redirect, or neither for a 304."""

    fetched_at: datetime
    headers: Mapping[str, str]
    body: bytes | None = None
    redirect: str | None = None


class Exchange:
    """Send single requests over one session."""

    def __init__(self, access: Access, session: requests.Session):
        self._access, self._session = access, session

    def send(self, outgoing: Outgoing, deadline: Deadline) -> Outcome:
        """Return the outcome of one request; raise TransientError or TerminalError. No error contains a secret."""
        self._access.spend()
        fetched_at = self._access.clock()
        with (
            self._reporting(),
            self._translating_errors(outgoing, deadline),
            deadline.enforced(),
            self._open(outgoing, deadline) as response,
        ):
            outcome = self._read(outgoing, response, fetched_at, deadline)
        return outcome

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report to the circuit breaker whether the host responded."""
        try:
            yield
        except (TransientError, TerminalError) as error:
            self._access.record_result(error.code not in HOST_FAILURES)
            error.detail = self._access.auth.hide(error.detail)
            error.args = (error.detail,)
            raise
        self._access.record_result(True)

    @contextmanager
    def _translating_errors(self, outgoing: Outgoing, deadline: Deadline) -> Iterator[None]:
        """Raise TransientError in place of the errors of the HTTP libraries."""
        try:
            yield
        except (requests.RequestException, HTTPError) as error:
            self.check_deadline(deadline)
            # The exception's text may contain the key, so name only its type.
            detail = f"{outgoing.method} {urlsplit(outgoing.url).path} failed: {type(error).__name__}"
            raise TransientError(f"{self._access.source}: {detail}") from None

    def _open(self, outgoing: Outgoing, deadline: Deadline) -> requests.Response:
        self.check_deadline(deadline)
        data: Any = outgoing.data
        return self._session.request(
            outgoing.method,
            outgoing.url,
            params=outgoing.params,
            data=data,
            headers=outgoing.headers,
            auth=outgoing.auth,
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            stream=True,
        )

    def _read(
        self, outgoing: Outgoing, response: requests.Response, fetched_at: datetime, deadline: Deadline
    ) -> Outcome:
        access = self._access
        self.check_deadline(deadline)  # The library accepts incomplete headers.
        words = partial(read_words, response, deadline, access.auth.hide)
        if response.is_redirect:
            target = resolve_redirect(access.source, response, outgoing.base, words)
            return Outcome(fetched_at, response.headers, redirect=target)
        if outgoing.is_conditional and response.status_code == 304:
            return Outcome(fetched_at, response.headers)
        check_status(access.source, response, words, has_key=bool(access.auth.credentials.auth))
        body = read_body(access.source, response, access.max_body_bytes, access.max_body_values)
        self.check_deadline(deadline)  # The body may be incomplete.
        if outgoing.is_archived:
            check_body(access.source, response, body, access.auth.is_in, access.auth.hide)
        return Outcome(fetched_at, response.headers, body)

    def check_deadline(self, deadline: Deadline) -> None:
        """Raise TransientError if the deadline is over."""
        if deadline.is_over:
            detail = f"{self._access.source}: no complete response within {self._access.deadline:g} s"
            raise TransientError(detail, code="upstream_slow") from None
