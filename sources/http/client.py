"""Send a source's requests to its upstream, with limits, timeouts and retries. Send its key to no other host."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import backoff
import requests

from sources.contract import Response, TerminalError, TransientError
from sources.http.authentication import dump_json
from sources.http.deadline import Deadline
from sources.http.exchange import Access, Exchange, Outcome, Outgoing
from sources.http.graphql import check_graphql
from sources.http.responses import Unauthorized, origin_of
from sources.http.revalidation import KnownResponse, read_etag, read_last_modified
from sources.http.session import open_session
from sources.http.tokens import TokenClient

MAX_RETRY_PAUSE = 5.0
"""Maximum seconds between two attempts."""

MAX_ATTEMPTS = 3
MAX_REDIRECTS = 3

NO_BODY: Any = object()


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
        self._session = session or open_session(access.contact)
        self._exchange = Exchange(access, self._session)
        self._tokens = TokenClient(access, self._exchange)

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
        return self._request("GET", path, params or {}, NO_BODY)

    def post(self, path: str, json: Any, params: Mapping[str, str | int] | None = None) -> Response:
        """Return the response to POST base URL + path with a JSON body, after retries if needed.

        Raise TransientError or TerminalError if the request fails.
        """
        return self._request("POST", path, params or {}, json)

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None, path: str = "") -> Response:
        """Return the response to a GraphQL query at base URL + path.

        Raise TransientError or TerminalError if the request fails, or if the response has errors and no data.
        """
        response = self.post(path, {"query": query, "variables": dict(variables or {})})
        check_graphql(self._access.source, response.body)
        return response

    def _request(self, method: str, path: str, params: Mapping[str, str | int], body: Any) -> Response:
        request = {"method": method, "url": self._access.url + path, "params": dict(params)}
        request |= {} if body is NO_BODY else {"json": body}
        self._check_request(request)
        return self._with_retries(lambda deadline: self._attempt(request, deadline))

    def _check_request(self, request: Mapping[str, Any]) -> None:
        """Raise TerminalError for a request to another origin, or for one that contains a secret, as it is stored."""
        source = self._access.source
        if not _has_origin(request["url"], self._access.url):
            raise TerminalError(
                f"{source}: the path of a request leads to another origin; it must begin with `/` or be empty",
                code="misconfigured",
            )
        if self._access.auth.is_in_request(request):
            raise TerminalError(
                f"{source}: a request contains the key, and would be stored with it; declare the place of the key in "
                "`Upstream.auth` instead",
                code="misconfigured",
            )

    def _with_retries(self, request: Callable[[Deadline], Response]) -> Response:
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
                return request(deadline)
            except TransientError as error:
                if failures and not error.is_failure:
                    raise _retry_forbidden(failures[-1], error) from None
                failures.append(error)
                raise

        response: Response = retrying(attempt)()
        return response

    def _attempt(self, request: dict[str, Any], deadline: Deadline) -> Response:
        """Make one attempt, with a token if the plan needs one. Replace a cached token once if it is refused."""
        is_cached = self._tokens.ensure(deadline)
        try:
            return self._follow(request, deadline)
        except Unauthorized:
            if not is_cached:
                raise
        self._tokens.renew(deadline)
        return self._follow(request, deadline)

    def _follow(self, request: dict[str, Any], deadline: Deadline) -> Response:
        """Send the request and follow its redirects."""
        known_response = self._find_known_response(request)
        # A POST is never conditional (RFC 9110, section 13.1). Its response may still equal the last one.
        is_get = request["method"] == "GET"
        conditions = known_response.conditions if known_response and is_get else {}
        url, params = request["url"], request["params"]
        for redirects in range(MAX_REDIRECTS + 1):
            outcome = self._exchange.send(self._outgoing(request, url, params, conditions), deadline)
            if outcome.redirect is None:
                return self._response(request, outcome, known_response, was_redirected=redirects > 0)
            # A validator belongs to the URL that sent it. Another URL may use the same validator for another body.
            url, params, conditions = outcome.redirect, {}, {}
        path = urlsplit(request["url"]).path
        detail = self._detail(f"{request['method']} {path} was redirected more than {MAX_REDIRECTS} times")
        raise TerminalError(detail, code="redirected")

    def _outgoing(
        self,
        request: Mapping[str, Any],
        url: str,
        params: Mapping[str, str | int],
        conditions: Mapping[str, str],
    ) -> Outgoing:
        has_body = "json" in request
        return Outgoing(
            method=request["method"],
            url=url,
            auth=self._access.auth,
            params=params,
            headers={**({"Content-Type": "application/json"} if has_body else {}), **conditions},
            data=dump_json(request["json"]) if has_body else None,
            is_conditional=bool(conditions),
            base=self._access.url,
        )

    def _response(
        self, request: dict[str, Any], outcome: Outcome, known_response: KnownResponse | None, *, was_redirected: bool
    ) -> Response:
        if outcome.body is None:
            return self._stored_response(request, outcome, known_response)
        has_validators = request["method"] == "GET" and not was_redirected
        return Response(
            body=outcome.body,
            status=200,
            content_type=outcome.headers.get("Content-Type", ""),
            request=request,
            fetched_at=outcome.fetched_at,
            etag=read_etag(outcome.headers) if has_validators else None,
            last_modified=read_last_modified(outcome.headers) if has_validators else None,
            headers=_lower_case(outcome.headers),
            unchanged=known_response is not None and known_response.digest == hashlib.sha256(outcome.body).digest(),
        )

    def _stored_response(
        self, request: dict[str, Any], outcome: Outcome, known_response: KnownResponse | None
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


def _has_origin(url: str, base: str) -> bool:
    try:
        return origin_of(url) == origin_of(base)
    except ValueError:
        return False


def _retry_forbidden(failure: TransientError, limit: TransientError) -> TransientError:
    """Return the error of a failed request that must not be retried now because of a limit.

    This error counts as a failure. The limit's own error would not.
    """
    return TransientError(f"{failure.detail}; {limit.detail}", code=failure.code, retry_after=limit.retry_after)
