"""Get OAuth 2 tokens with client credentials (RFC 6749, section 4.4), and cache them in this process.

A token is never stored anywhere else. Each worker process gets its own.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import requests
from requests.auth import HTTPBasicAuth

from sources.auth import ClientCredentials
from sources.contract import TransientError
from sources.http.deadline import Deadline
from sources.http.exchange import Access, Exchange, Outgoing
from sources.http.words import quote_words

DEFAULT_SECONDS = 300.0
"""The lifetime of a token whose response does not state one. A refused token is renewed in any case."""

MAX_EARLY_SECONDS = 60.0
"""A token is renewed this long before it expires, or after nine tenths of its lifetime, whichever is later."""

_TOKEN = re.compile(r"[!-~]{1,16384}")


@dataclass(frozen=True)
class Token:
    """A token, and the time at which to renew it, on the monotonic clock."""

    value: str
    renew_at: float

    @property
    def is_fresh(self) -> bool:
        return time.monotonic() < self.renew_at


_TOKENS: Final[dict[tuple[str, ...], Token]] = {}
"""The tokens of this process by endpoint and client."""


class TokenClient:
    """Provide the token of a client, if its plan needs one. The requests for tokens count toward all limits."""

    def __init__(self, access: Access, exchange: Exchange):
        self._access, self._exchange = access, exchange

    def ensure(self, deadline: Deadline) -> bool:
        """Make the client send a valid token. Return whether it is from the cache, so that it may be outdated."""
        client = self._access.auth.credentials.client
        if client is None:
            return False
        token = _TOKENS.get(self._key(client))
        if token is None or not token.is_fresh:
            self.renew(deadline)
            return False
        self._access.auth.use_token(token.value)
        return True

    def renew(self, deadline: Deadline) -> None:
        """Request a new token, cache it, and make the client send it."""
        client = self._access.auth.credentials.client
        if client is None:
            return
        key = self._key(client)
        _TOKENS.pop(key, None)
        requested_at = time.monotonic()
        outcome = self._exchange.send(self._outgoing(client), deadline)
        token = read_token(self._access.source, outcome.body or b"", requested_at)
        for expired in [other for other, cached in _TOKENS.items() if not cached.is_fresh]:
            del _TOKENS[expired]
        _TOKENS[key] = token
        self._access.auth.use_token(token.value)

    def _key(self, client: ClientCredentials) -> tuple[str, ...]:
        """Return the key of the token in the cache. A new secret, scope or endpoint has another key."""
        secrets = self._access.auth.credentials.secrets
        return (self._url(client), client.scope or "", client.audience or "", secrets["API_KEY"], secrets["API_SECRET"])

    def _url(self, client: ClientCredentials) -> str:
        return self._access.url + client.token_url if client.token_url.startswith("/") else client.token_url

    def _outgoing(self, client: ClientCredentials) -> Outgoing:
        secrets = self._access.auth.credentials.secrets
        key, secret = secrets["API_KEY"], secrets["API_SECRET"]
        form = {"grant_type": "client_credentials"}
        form |= {name: value for name in ("scope", "audience") if (value := getattr(client, name)) is not None}
        if client.login == "body":
            form |= {"client_id": key, "client_secret": secret}
            return Outgoing("POST", self._url(client), _no_login, data=form, is_archived=False)
        # RFC 6749 encodes the id and the secret for a form before they are encoded for HTTP Basic.
        login = HTTPBasicAuth(quote(key, safe=""), quote(secret, safe=""))
        return Outgoing("POST", self._url(client), login, data=form, is_archived=False)


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def read_token(source: str, body: bytes, requested_at: float) -> Token:
    """Return the token of a response; raise TransientError if it has none.

    requested_at: the time right before the request, on the monotonic clock.
    """
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    value = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        # The body may contain a token in an unexpected place, so its values are not shown.
        names = ", ".join(map(str, answer)) if isinstance(answer, dict) else "no object"
        raise TransientError(
            f"{source}: the token endpoint returned no `access_token`; expected a JSON object with this member, got "
            f"{quote_words(names.encode())}",
            code="unexpected_body",
        )
    return Token(value, requested_at + _renew_after(answer.get("expires_in")))


def _renew_after(expires_in: Any) -> float:
    """Return the seconds after which to renew a token. Some servers send the lifetime as text."""
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError):
        seconds = DEFAULT_SECONDS
    if not 0 < seconds < float("inf"):
        seconds = DEFAULT_SECONDS
    return max(seconds - MAX_EARLY_SECONDS, 0.9 * seconds)
