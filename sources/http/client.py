"""One source's access to its own upstream: its limits, timeouts and repeats, and the key on no host but its own."""

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
from sources.http.deadline import Deadline, KeepsDeadlines
from sources.http.responses import check_body, check_status, read_body, redirected_to
from sources.http.revalidation import KnownResponse, etag_of, last_modified_of

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
LONGEST_SLEEP = 5.0
"""Seconds between two repeats of a request."""

MAX_REDIRECTS = 3
NO_ANSWER = ("upstream_unavailable", "upstream_slow")
"""The codes of failures that speak of the host, not of what it was asked: these open its circuit breaker."""


@dataclass(frozen=True)
class Access:
    """What a client needs to speak with one upstream. deadline: seconds for one `get`, repeats included.

    spend: asked before every single request; raises TransientError while rate, budget or circuit breaker forbid it.
    answered: told after every single request whether the host gave an answer, a refusal included.
    clock: the time that pages are stamped with (aware, UTC).
    """

    source: str
    url: str
    headers: Mapping[str, str]
    deadline: float
    max_body: int
    spend: Callable[[], None]
    answered: Callable[[bool], None]
    clock: Callable[[], datetime]


@dataclass(frozen=True)
class _Answer:
    """What came of a single request. body: None where the upstream said that the one we know still holds."""

    fetched_at: datetime
    headers: Mapping[str, str]
    body: bytes | None = None
    moved_to: str | None = None


class HttpClient:
    """See `sources.contract.Http`; to be closed after use.

    known: asked before each `get` for what was answered to that request before.
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

    def knowing(self, known: Callable[[Mapping[str, Any]], KnownResponse | None]) -> HttpClient:
        """One that asks only for what changed since; it shares this one's connections, and is closed with it."""
        return HttpClient(self._access, known, self._session)

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Response:
        """GET base URL + path. Raises TransientError or TerminalError for everything but an answer."""
        deadline = Deadline(self._access.deadline)
        half_time = deadline.at - self._access.deadline / 2

        def is_the_runs_to_wait(error: Exception) -> bool:
            # No worker slot is held asleep for a time that the upstream, or the limiter, named.
            # And `max_time` goes by when an attempt began, not by when it failed.
            return bool(getattr(error, "retry_after", None)) or time.monotonic() >= half_time

        asked_again = backoff.on_exception(
            backoff.expo,
            TransientError,
            jitter=backoff.full_jitter,
            max_value=LONGEST_SLEEP,
            max_tries=3,
            max_time=self._access.deadline / 2,
            giveup=is_the_runs_to_wait,
            logger=None,
        )
        failures: list[TransientError] = []

        def ask() -> Response:
            try:
                return self._get_once(path, params or {}, deadline)
            except TransientError as error:
                if failures and not error.is_failure:
                    raise _not_repeated(failures[-1], error) from None
                failures.append(error)
                raise

        reply: Response = asked_again(ask)()
        return reply

    def _get_once(self, path: str, params: Mapping[str, str | int], deadline: Deadline) -> Response:
        url = self._access.url + path
        asked = {"method": "GET", "url": url, "params": dict(params)}
        known = self._known(asked)
        conditions = known.conditions if known else {}
        for hops in range(MAX_REDIRECTS + 1):
            answer = self._exchange(url, params, conditions, deadline)
            if answer.moved_to is None:
                return self._reply(asked, answer, known, was_redirected=hops > 0)
            # Elsewhere than where it came from, a validator would speak of another body.
            url, params, conditions = answer.moved_to, {}, {}
        raise TerminalError(self._say(f"GET {path} was redirected more than {MAX_REDIRECTS} times"), code="redirected")

    def _exchange(
        self, url: str, params: Mapping[str, str | int], conditions: Mapping[str, str], deadline: Deadline
    ) -> _Answer:
        """A single request, with all that is to be done before and after each."""
        self._access.spend()
        fetched_at = self._access.clock()
        with (
            self._telling(),
            self._wrapping(url, deadline),
            deadline.kept(),
            self._ask(url, params, conditions, deadline) as response,
        ):
            answer = self._taken(response, fetched_at, bool(conditions), deadline)
        return answer

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tells the circuit breaker how a request went."""
        try:
            yield
        except (TransientError, TerminalError) as error:
            self._access.answered(error.code not in NO_ANSWER)
            raise
        self._access.answered(True)

    @contextmanager
    def _wrapping(self, url: str, deadline: Deadline) -> Iterator[None]:
        """Says in our words what the libraries raise."""
        try:
            yield
        except (requests.RequestException, HTTPError) as error:
            self._check_time(deadline)
            # The exception's text may hold what was sent; its kind says enough.
            said = f"GET {urlsplit(url).path} failed: {type(error).__name__}"
            raise TransientError(self._say(said)) from None

    def _ask(
        self, url: str, params: Mapping[str, str | int], conditions: Mapping[str, str], deadline: Deadline
    ) -> requests.Response:
        self._check_time(deadline)
        return self._session.get(
            url,
            params=params,
            headers={**self._access.headers, **conditions},
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            stream=True,
        )

    def _taken(
        self, response: requests.Response, fetched_at: datetime, had_conditions: bool, deadline: Deadline
    ) -> _Answer:
        self._check_time(deadline)  # to the library, a head that was cut off is a head
        if response.is_redirect:
            target = redirected_to(self._access.source, response, self._access.url)
            return _Answer(fetched_at, response.headers, moved_to=target)
        if had_conditions and response.status_code == 304:
            return _Answer(fetched_at, response.headers)
        check_status(self._access.source, response)
        body = read_body(self._access.source, response, self._access.max_body)
        self._check_time(deadline)  # what there is may be the half of it
        check_body(self._access.source, body, self._access.headers.values())
        return _Answer(fetched_at, response.headers, body)

    def _check_time(self, deadline: Deadline) -> None:
        if deadline.is_over:
            said = self._say(f"no whole answer within {self._access.deadline:g} s")
            raise TransientError(said, code="upstream_slow") from None

    def _reply(
        self, asked: dict[str, Any], answer: _Answer, known: KnownResponse | None, *, was_redirected: bool
    ) -> Response:
        if answer.body is None:
            return self._kept(asked, answer, known)
        return Response(
            body=answer.body,
            status=200,
            content_type=answer.headers.get("Content-Type", ""),
            request=asked,
            fetched_at=answer.fetched_at,
            etag=None if was_redirected else etag_of(answer.headers),
            last_modified=None if was_redirected else last_modified_of(answer.headers),
            unchanged=known is not None and known.digest == hashlib.sha256(answer.body).digest(),
        )

    def _kept(self, asked: dict[str, Any], answer: _Answer, known: KnownResponse | None) -> Response:
        """The answer to which the upstream said that it holds."""
        body = known.body() if known else None
        if known is None or body is None:  # it was there a moment ago: the next request is made without a condition
            raise TransientError(self._say("answered 304 to what has just been deleted"))
        return Response(
            body=body,
            status=304,
            content_type=known.content_type,
            request=asked,
            fetched_at=answer.fetched_at,
            etag=known.etag,
            last_modified=known.last_modified,
            unchanged=True,
        )

    def _say(self, what: str) -> str:
        return f"{self._access.source}: {what}"


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Redirects are ours to follow; for one it knows of, requests first reads a body of any size, at any pace."""


def _session() -> requests.Session:
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, KeepsDeadlines())
    # Without an auth of its own, requests takes one for the host out of the user's .netrc.
    session.auth = lambda request: request
    session.headers.update({"User-Agent": "kasparro", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"})
    return session


def _not_repeated(failure: TransientError, forbidden: TransientError) -> TransientError:
    """The failure of a request that may not be repeated now: as what forbids it, it would not count as one."""
    return TransientError(f"{failure.detail}; {forbidden.detail}", code=failure.code, retry_after=forbidden.retry_after)
