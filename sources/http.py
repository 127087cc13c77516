"""One source's access to its own upstream: timeouts, repeats, size limits, and the key on no host but its own."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import backoff
import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from settings import SettingsError, read_upstream
from sources.conditional import Known, etag_of, last_modified_of
from sources.contract import Reply, Source, TerminalError, TransientError

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
CHUNK = 64 * 1024
LONGEST_SLEEP = 5.0
"""Seconds between two repeats of a request."""

MAX_REDIRECTS = 3
NO_ANSWER = ("upstream_unavailable", "upstream_slow")
"""The codes of failures that speak of the host, not of what it was asked: these open its circuit breaker."""

REFUSALS = {
    400: ("upstream_refused", None),
    401: ("key_refused", timedelta(hours=1)),
    # A paid endpoint or a used-up quota: asking again only costs more.
    402: ("payment_required", timedelta(days=1)),
    403: ("key_refused", timedelta(hours=1)),
    404: ("upstream_refused", None),
    422: ("upstream_refused", None),
}


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


def address(source: Source) -> tuple[str, Mapping[str, str]]:
    """The base URL that a source's calls go to, and the header that carries its key.

    Raises SettingsError where the environment names a plan without its key, or a key that no plan takes.
    """
    given, prefix = read_upstream(source.name), source.name.upper()
    if not source.upstreams:
        return "", {}
    name = given.plan or next(
        (plan for plan, it in source.upstreams.items() if bool(it.key_header) == bool(given.api_key)), ""
    )
    plan = source.upstreams.get(name)
    if plan is None and not given.plan and not given.api_key:
        raise SettingsError(f"{prefix}_API_KEY is not set: {source.name} has no plan that needs no key.")
    if plan is None:
        plans = ", ".join(source.upstreams)
        raise SettingsError(f"{prefix}_PLAN or {prefix}_API_KEY: no plan fits them; the plans are: {plans}.")
    if bool(plan.key_header) != bool(given.api_key):
        needs = "needs a" if plan.key_header else "takes no"
        raise SettingsError(f"{prefix}_API_KEY: the plan {name!r} {needs} key.")
    headers = {plan.key_header: given.api_key} if plan.key_header and given.api_key else {}
    return (given.url or plan.url).rstrip("/"), headers


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Redirects are ours to follow; for one it knows of, requests first reads a body of any size, at any pace."""


class HttpClient:
    """See `sources.contract.Http`; to be closed after use.

    known: what to ask before each request for what was answered to it before; None: nothing, or it is not to count.
    """

    def __init__(self, access: Access):
        self._access = access
        self.known: Callable[[Mapping[str, Any]], Known | None] = lambda request: None
        self._session = _Session()
        # Without an auth of its own, requests takes one for the host out of the user's .netrc.
        self._session.auth = lambda request: request
        self._session.headers.update(
            {"User-Agent": "kasparro", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        )

    def close(self) -> None:
        self._session.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Reply:
        """GET base URL + path. Raises TransientError or TerminalError for everything but an answer."""
        half_time = time.monotonic() + self._access.deadline / 2
        give_up_at = half_time + self._access.deadline / 2

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

        def ask() -> Reply:
            try:
                return self._get_once(path, params or {}, give_up_at)
            except TransientError as error:
                if failures and not error.is_failure:
                    raise _not_repeated(failures[-1], error) from None
                failures.append(error)
                raise

        reply: Reply = asked_again(ask)()
        return reply

    def _get_once(self, path: str, params: Mapping[str, str | int], give_up_at: float) -> Reply:
        url = self._access.url + path
        asked = {"method": "GET", "url": url, "params": dict(params)}
        known = self.known(asked)
        for hops in range(MAX_REDIRECTS + 1):
            # Elsewhere than where it came from, a validator would speak of another body.
            conditions = known.conditions if known and not hops else {}
            self._access.spend()
            fetched_at = self._access.clock()
            with (
                self._telling(),
                self._wrapping(path, give_up_at),
                self._ask(url, params, conditions, give_up_at) as response,
            ):
                if response.is_redirect:
                    url, params = self._followed(response), {}
                    continue
                still_holds = known if conditions and response.status_code == 304 else None
                if still_holds is None:
                    self._check_status(response)
                    body = self._read(response, give_up_at)
                    self._check_body(body)
                    return Reply(
                        body=body,
                        status=response.status_code,
                        content_type=response.headers.get("Content-Type", ""),
                        request=asked,
                        fetched_at=fetched_at,
                        etag=None if hops else etag_of(response.headers),
                        last_modified=None if hops else last_modified_of(response.headers),
                        unchanged=known is not None and known.digest == hashlib.sha256(body).digest(),
                    )
            return self._kept(still_holds, asked, fetched_at)
        raise TerminalError(self._say(f"GET {path} was redirected more than {MAX_REDIRECTS} times"), code="redirected")

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
    def _wrapping(self, path: str, give_up_at: float) -> Iterator[None]:
        """Says in our words what the libraries raise."""
        try:
            yield
        except (requests.RequestException, HTTPError) as error:
            if time.monotonic() >= give_up_at:
                raise self._too_slow() from None
            # The exception's text may hold what was sent; its kind says enough.
            raise TransientError(self._say(f"GET {path} failed: {type(error).__name__}")) from None

    def _kept(self, known: Known, asked: dict[str, Any], fetched_at: datetime) -> Reply:
        """The answer to which the upstream said that it holds."""
        body = known.body()
        if body is None:  # it was there a moment ago: the next request is made without a condition
            raise TransientError(self._say("answered 304 to what has just been deleted"))
        return Reply(
            body=body,
            status=304,
            content_type=known.content_type,
            request=asked,
            fetched_at=fetched_at,
            etag=known.etag,
            last_modified=known.last_modified,
            unchanged=True,
        )

    def _ask(
        self, url: str, params: Mapping[str, str | int], conditions: Mapping[str, str], give_up_at: float
    ) -> requests.Response:
        left = give_up_at - time.monotonic()
        if left <= 0:
            raise self._too_slow()
        return self._session.get(
            url,
            params=params,
            headers={**self._access.headers, **conditions},
            timeout=(min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)),
            allow_redirects=False,
            stream=True,
        )

    def _followed(self, response: requests.Response) -> str:
        """Where a redirect leads, if that is the same origin: the key must not travel."""
        try:
            target = requests.compat.urljoin(response.url, response.headers["Location"])
            origin = _origin(target)
        except ValueError:
            raise TerminalError(self._say("redirected to what is no URL; not followed"), code="redirected") from None
        if origin != _origin(self._access.url):
            shown = "{}://{}:{}".format(*origin)
            raise TerminalError(self._say(f"redirected to another origin, {shown}; not followed"), code="redirected")
        return target

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        said = self._say(f"answered {status} to GET {urlsplit(response.url).path}")
        if status in REFUSALS:
            code, pause = REFUSALS[status]
            raise TerminalError(said, code=code, pause=pause)
        if status == 304:
            raise TransientError(f"{said}, which had set no condition", code="unexpected_status")
        if status in (408, 425, 429) or status >= 500:
            code = "rate_limited" if status == 429 else "upstream_unavailable"
            raise TransientError(said, code=code, retry_after=_retry_after(response))
        raise TerminalError(said)

    def _check_body(self, body: bytes) -> None:
        """Bodies are kept as they came, and shown: one that says our key back must not be."""
        if any(key.encode() in body for key in self._access.headers.values()):
            raise TransientError(self._say("the answer repeats the key it was asked with"), code="unexpected_body")

    def _read(self, response: requests.Response, give_up_at: float) -> bytes:
        """The unpacked body, whole."""
        body = bytearray()
        with _hung_up_at(give_up_at, response):
            for chunk in response.iter_content(CHUNK):
                body += chunk
                if len(body) > self._access.max_body:
                    raise TerminalError(
                        self._say(f"the body is larger than {self._access.max_body} bytes"), code="body_too_large"
                    )
        if time.monotonic() >= give_up_at:  # hung up: what there is may be the half of it
            raise self._too_slow()
        return bytes(body)

    def _too_slow(self) -> TransientError:
        return TransientError(self._say(f"no whole answer within {self._access.deadline:g} s"), code="upstream_slow")

    def _say(self, what: str) -> str:
        return f"{self._access.source}: {what}"


@contextmanager
def _hung_up_at(give_up_at: float, response: requests.Response) -> Iterator[None]:
    """Ends the reading of a body at the deadline: one that trickles keeps to every timeout of a single read."""

    def hang_up() -> None:
        with suppress(OSError, RuntimeError, ValueError):  # it has just ended by itself
            response.raw.shutdown()

    timer = threading.Timer(give_up_at - time.monotonic(), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _not_repeated(failure: TransientError, forbidden: TransientError) -> TransientError:
    """The failure of a request that may not be repeated now: as what forbids it, it would not count as one."""
    return TransientError(f"{failure.detail}; {forbidden.detail}", code=failure.code, retry_after=forbidden.retry_after)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _retry_after(response: requests.Response) -> float | None:
    """Seconds asked for by Retry-After in either form, up to 6 hours; None where it says nothing useful."""
    try:
        seconds = Retry().parse_retry_after(response.headers.get("Retry-After", ""))
    except (HTTPError, ValueError, OverflowError):
        return None
    return float(seconds) if seconds > 0 else None
