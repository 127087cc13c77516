"""Send a source's requests to its upstream, with limits, timeouts and retries. Send its key to no other host."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import backoff
import requests
from urllib3.exceptions import HTTPError

from sources.contract import Response, TerminalError, TransientError
from sources.http.deadline import Deadline, DeadlineAdapter
from sources.http.responses import check_body, check_status, read_body, resolve_redirect
from sources.http.revalidation import KnownResponse, read_etag, read_last_modified

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
"""Seconds that a single read from the connection may take."""

MAX_RETRY_PAUSE = 5.0
"""Maximum seconds between two attempts."""

MAX_ATTEMPTS = 3
MAX_REDIRECTS = 3

HOST_FAILURES = ("upstream_unavailable", "upstream_slow")
"""The codes of errors that concern the whole host instead of one request. They open its circuit breaker."""


@dataclass(frozen=True)
class Access:
    """The settings and callbacks for requests to one upstream.

    url:            the base URL.
    headers:        the header with the API key; empty without a key.
    deadline:       the maximum duration of one `get` in seconds, including retries and redirects.
    max_body_bytes: the maximum size of a decompressed body.
    max_body_values: the maximum number of members of all lists and objects in a body.
    spend:          called before each request; raises TransientError if the rate limit, budget or breaker forbids it.
    record_result:  called after each request with True, or with False for an error in HOST_FAILURES.
    clock:          returns the time for `Response.fetched_at` (aware, UTC).
    """

    source: str
    url: str
    headers: Mapping[str, str]
    deadline: float
    max_body_bytes: int
    max_body_values: int
    spend: Callable[[], None]
    record_result: Callable[[bool], None]
    clock: Callable[[], datetime]


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one request: a body, a redirect, or neither for a 304."""

    fetched_at: datetime
    headers: Mapping[str, str]
    body: bytes | None = None
    redirect: str | None = None


class HttpClient:
    """Implement `sources.contract.Http`. Close it after use.

    find_known_response: called for each request; returns the last response to the same request, or None.
    """

    def __init__(
        self,
        access: Access,
        find_known_response: Callable[[Mapping[str, Any]], KnownResponse | None] = lambda request: None,
        session: requests.Session | None = None,
    ):
        self._access, self._find_known_response = access, find_known_response
        self._session = session or _session()

    def close(self) -> None:
        self._session.close()

    def with_known_responses(
        self, find_known_response: Callable[[Mapping[str, Any]], KnownResponse | None]
    ) -> HttpClient:
        """Return a client for conditional requests.

        It shares this client's connections and is closed with this client.
        """
        return HttpClient(self._access, find_known_response, self._session)

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Response:
        """Return the response to GET base URL + path, after retries if needed.

        Raise TransientError or TerminalError if the request fails.
        """
        deadline = Deadline(self._access.deadline)
        half_time = deadline.at - self._access.deadline / 2

        def must_not_retry(error: Exception) -> bool:
            # If the upstream or a limit requires a delay, the run waits for it. Sleeping here would occupy a worker.
            # `max_time` alone is not enough: it compares the start of an attempt, not its end.
            return bool(getattr(error, "retry_after", None)) or time.monotonic() >= half_time

        retrying = backoff.on_exception(
            backoff.expo,
            TransientError,
            jitter=backoff.full_jitter,
            max_value=MAX_RETRY_PAUSE,
            max_tries=MAX_ATTEMPTS,
            max_time=self._access.deadline / 2,
            giveup=must_not_retry,
            logger=None,
        )
        failures: list[TransientError] = []

        def attempt() -> Response:
            try:
                return self._get_once(path, params or {}, deadline)
            except TransientError as error:
                if failures and not error.is_failure:
                    raise _retry_forbidden(failures[-1], error) from None
                failures.append(error)
                raise

        response: Response = retrying(attempt)()
        return response

    def _get_once(self, path: str, params: Mapping[str, str | int], deadline: Deadline) -> Response:
        """Make one attempt: send the request and follow its redirects."""
        url = self._access.url + path
        request = {"method": "GET", "url": url, "params": dict(params)}
        known_response = self._find_known_response(request)
        conditions = known_response.conditions if known_response else {}
        for redirects in range(MAX_REDIRECTS + 1):
            outcome = self._exchange(url, params, conditions, deadline)
            if outcome.redirect is None:
                return self._response(request, outcome, known_response, was_redirected=redirects > 0)
            # A validator belongs to the URL that sent it. Another URL may use the same validator for another body.
            url, params, conditions = outcome.redirect, {}, {}
        raise TerminalError(
            self._detail(f"GET {path} was redirected more than {MAX_REDIRECTS} times"), code="redirected"
        )

    def _exchange(
        self, url: str, params: Mapping[str, str | int], conditions: Mapping[str, str], deadline: Deadline
    ) -> _Outcome:
        """Send one request, within the limits and the deadline, and return its outcome."""
        self._access.spend()
        fetched_at = self._access.clock()
        with (
            self._reporting(),
            self._translating_errors(url, deadline),
            deadline.enforced(),
            self._send(url, params, conditions, deadline) as response,
        ):
            outcome = self._read(response, fetched_at, bool(conditions), deadline)
        return outcome

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report to the circuit breaker whether the host responded."""
        try:
            yield
        except (TransientError, TerminalError) as error:
            self._access.record_result(error.code not in HOST_FAILURES)
            raise
        self._access.record_result(True)

    @contextmanager
    def _translating_errors(self, url: str, deadline: Deadline) -> Iterator[None]:
        """Raise TransientError in place of the errors of the HTTP libraries."""
        try:
            yield
        except (requests.RequestException, HTTPError) as error:
            self._check_deadline(deadline)
            # The exception's text may contain the key, so name only its type.
            detail = f"GET {urlsplit(url).path} failed: {type(error).__name__}"
            raise TransientError(self._detail(detail)) from None

    def _send(
        self, url: str, params: Mapping[str, str | int], conditions: Mapping[str, str], deadline: Deadline
    ) -> requests.Response:
        self._check_deadline(deadline)
        return self._session.get(
            url,
            params=params,
            headers={**self._access.headers, **conditions},
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            stream=True,
        )

    def _read(
        self, response: requests.Response, fetched_at: datetime, had_conditions: bool, deadline: Deadline
    ) -> _Outcome:
        self._check_deadline(deadline)  # The library accepts incomplete headers.
        if response.is_redirect:
            target = resolve_redirect(self._access.source, response, self._access.url)
            return _Outcome(fetched_at, response.headers, redirect=target)
        if had_conditions and response.status_code == 304:
            return _Outcome(fetched_at, response.headers)
        check_status(self._access.source, response)
        body = read_body(self._access.source, response, self._access.max_body_bytes, self._access.max_body_values)
        self._check_deadline(deadline)  # The body may be incomplete.
        check_body(self._access.source, body, self._access.headers.values())
        return _Outcome(fetched_at, response.headers, body)

    def _check_deadline(self, deadline: Deadline) -> None:
        if deadline.is_over:
            detail = self._detail(f"no complete response within {self._access.deadline:g} s")
            raise TransientError(detail, code="upstream_slow") from None

    def _response(
        self, request: dict[str, Any], outcome: _Outcome, known_response: KnownResponse | None, *, was_redirected: bool
    ) -> Response:
        if outcome.body is None:
            return self._stored_response(request, outcome, known_response)
        return Response(
            body=outcome.body,
            status=200,
            content_type=outcome.headers.get("Content-Type", ""),
            request=request,
            fetched_at=outcome.fetched_at,
            etag=None if was_redirected else read_etag(outcome.headers),
            last_modified=None if was_redirected else read_last_modified(outcome.headers),
            headers=_lower_case(outcome.headers),
            unchanged=known_response is not None and known_response.digest == hashlib.sha256(outcome.body).digest(),
        )

    def _stored_response(
        self, request: dict[str, Any], outcome: _Outcome, known_response: KnownResponse | None
    ) -> Response:
        """Return the stored response, which a 304 has confirmed."""
        body = known_response.body() if known_response else None
        if known_response is None or body is None:
            # The body was deleted since the request was sent. The next request will be unconditional.
            detail = self._detail("returned 304, but the stored body has just been deleted")
            raise TransientError(detail, code="body_deleted")
        return Response(
            body=body,
            status=304,
            content_type=known_response.content_type,
            request=request,
            fetched_at=outcome.fetched_at,
            etag=known_response.etag,
            last_modified=known_response.last_modified,
            headers=_lower_case(outcome.headers),
            unchanged=True,
        )

    def _detail(self, text: str) -> str:
        return f"{self._access.source}: {text}"


def _lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, since the client follows redirects itself. requests would read their bodies without a limit."""


def _session() -> requests.Session:
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter())
    # Without an `auth`, requests would send the host's login from the user's .netrc file.
    session.auth = lambda request: request
    session.headers.update({"User-Agent": "kasparro", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"})
    return session


def _retry_forbidden(failure: TransientError, limit: TransientError) -> TransientError:
    """Return the error of a failed request that must not be retried now because of a limit.

    This error counts as a failure. The limit's own error would not.
    """
    return TransientError(f"{failure.detail}; {limit.detail}", code=failure.code, retry_after=limit.retry_after)
