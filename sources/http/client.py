"""Send a source's requests to its upstream, within its limits, timeouts and retries, and its key to no other host."""

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
"""Seconds between two attempts."""

MAX_ATTEMPTS = 3
MAX_REDIRECTS = 3

HOST_FAILURES = ("upstream_unavailable", "upstream_slow")
"""The codes of errors that concern the host, whatever was requested. They open its circuit breaker."""


@dataclass(frozen=True)
class Access:
    """What a client needs in order to reach one upstream.

    url:            the base URL.
    headers:        the header with the key, if there is one.
    deadline:       seconds that one `get` may take, retries and redirects included.
    max_body_bytes: the maximum size of a decompressed body.
    spend:          called before each request; raises TransientError if the rate, the budget or the breaker forbids it.
    record_result:  called after each request with whether the host responded, even if it refused.
    clock:          returns the time for `Response.fetched_at` (aware, UTC).
    """

    source: str
    url: str
    headers: Mapping[str, str]
    deadline: float
    max_body_bytes: int
    spend: Callable[[], None]
    record_result: Callable[[bool], None]
    clock: Callable[[], datetime]


@dataclass(frozen=True)
class _Answer:
    """The outcome of one request: a body, a redirect, or neither for a 304."""

    fetched_at: datetime
    headers: Mapping[str, str]
    body: bytes | None = None
    redirect: str | None = None


class HttpClient:
    """Implement `sources.contract.Http`. Close it after use.

    known: called before each `get`; returns the last response to that request, or None.
    """

    def __init__(
        self,
        access: Access,
        known: Callable[[Mapping[str, Any]], KnownResponse | None] = lambda request: None,
        session: requests.Session | None = None,
    ):
        self._access, self._known, self._session = access, known, session or _session()

    def close(self) -> None:
        self._session.close()

    def with_known_responses(self, known: Callable[[Mapping[str, Any]], KnownResponse | None]) -> HttpClient:
        """Return a client that makes conditional requests. It shares this one's connections and is closed with it."""
        return HttpClient(self._access, known, self._session)

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Response:
        """Return the response to GET base URL + path, after retries if needed.

        Raise TransientError or TerminalError for anything but a success.
        """
        deadline = Deadline(self._access.deadline)
        half_time = deadline.at - self._access.deadline / 2

        def must_not_retry(error: Exception) -> bool:
            # If the upstream or the limiter named a delay, the run waits for it: sleeping here would occupy a worker.
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
        known = self._known(request)
        conditions = known.conditions if known else {}
        for redirects in range(MAX_REDIRECTS + 1):
            answer = self._exchange(url, params, conditions, deadline)
            if answer.redirect is None:
                return self._response(request, answer, known, was_redirected=redirects > 0)
            # A validator belongs to the URL that sent it. Another URL may use the same one for another body.
            url, params, conditions = answer.redirect, {}, {}
        raise TerminalError(
            self._detail(f"GET {path} was redirected more than {MAX_REDIRECTS} times"), code="redirected"
        )

    def _exchange(
        self, url: str, params: Mapping[str, str | int], conditions: Mapping[str, str], deadline: Deadline
    ) -> _Answer:
        """Send one request, within the limits and the deadline, and return its outcome."""
        self._access.spend()
        fetched_at = self._access.clock()
        with (
            self._reporting(),
            self._translating_errors(url, deadline),
            deadline.enforced(),
            self._send(url, params, conditions, deadline) as response,
        ):
            answer = self._read(response, fetched_at, bool(conditions), deadline)
        return answer

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
        """Raise TransientError for the errors of the HTTP libraries."""
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
    ) -> _Answer:
        self._check_deadline(deadline)  # The library accepts headers that were cut off.
        if response.is_redirect:
            target = resolve_redirect(self._access.source, response, self._access.url)
            return _Answer(fetched_at, response.headers, redirect=target)
        if had_conditions and response.status_code == 304:
            return _Answer(fetched_at, response.headers)
        check_status(self._access.source, response)
        body = read_body(self._access.source, response, self._access.max_body_bytes)
        self._check_deadline(deadline)  # The body may have been cut off.
        check_body(self._access.source, body, self._access.headers.values())
        return _Answer(fetched_at, response.headers, body)

    def _check_deadline(self, deadline: Deadline) -> None:
        if deadline.is_over:
            detail = self._detail(f"no complete response within {self._access.deadline:g} s")
            raise TransientError(detail, code="upstream_slow") from None

    def _response(
        self, request: dict[str, Any], answer: _Answer, known: KnownResponse | None, *, was_redirected: bool
    ) -> Response:
        if answer.body is None:
            return self._stored_response(request, answer, known)
        return Response(
            body=answer.body,
            status=200,
            content_type=answer.headers.get("Content-Type", ""),
            request=request,
            fetched_at=answer.fetched_at,
            etag=None if was_redirected else read_etag(answer.headers),
            last_modified=None if was_redirected else read_last_modified(answer.headers),
            unchanged=known is not None and known.digest == hashlib.sha256(answer.body).digest(),
        )

    def _stored_response(self, request: dict[str, Any], answer: _Answer, known: KnownResponse | None) -> Response:
        """Return the stored response, which a 304 has confirmed."""
        body = known.body() if known else None
        if known is None or body is None:
            # The body was deleted since the request was sent. The next request will be unconditional.
            raise TransientError(self._detail("answered 304, but the stored body has just been deleted"))
        return Response(
            body=body,
            status=304,
            content_type=known.content_type,
            request=request,
            fetched_at=answer.fetched_at,
            etag=known.etag,
            last_modified=known.last_modified,
            unchanged=True,
        )

    def _detail(self, text: str) -> str:
        return f"{self._access.source}: {text}"


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Report no redirect: the client follows it. Otherwise requests would first read its body, without a limit."""


def _session() -> requests.Session:
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter())
    # Without an `auth`, requests would send the login that the user's .netrc has for the host.
    session.auth = lambda request: request
    session.headers.update({"User-Agent": "kasparro", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"})
    return session


def _retry_forbidden(failure: TransientError, limit: TransientError) -> TransientError:
    """Return the error of a request that failed and may not be retried now.

    It is still a failure, and counts as one. The error of the limit alone would not count.
    """
    return TransientError(f"{failure.detail}; {limit.detail}", code=failure.code, retry_after=limit.retry_after)
