"""Declare how the requests to an upstream carry its key: in headers, in the query, in a signature, or as a token.

A source only declares this, in `Upstream.auth`. The client (sources/http) reads the secrets from the environment, and
sends them to the upstream's own origin. No secret becomes part of `page.request`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from urllib.parse import unquote, urlsplit

SecretName = Literal["API_KEY", "API_SECRET", "API_PASSPHRASE"]
"""The ending of the environment variable that holds a secret, after the name of the source and `_`."""

SECRET_NAMES: Final[tuple[SecretName, ...]] = get_args(SecretName)

Digest = Literal["sha256", "sha384", "sha512"]
Encoding = Literal["hex", "base64"]
TimeUnit = Literal["seconds", "milliseconds", "microseconds", "iso"]
ClientLogin = Literal["basic", "body"]

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class SignedRequest:
    """The request that a signature covers, exactly as it is sent, except for the signature itself."""

    method: str
    """In upper case."""

    path: str
    """The path of the URL, which includes that of the base URL."""

    query: str
    """The encoded query without `?`; empty if there is none."""

    body: str
    """The JSON body; empty for a request without one."""

    timestamp: str
    """The time of the request, or a nonce that increases with each request."""

    key: str
    """The value of `API_KEY`; empty if the plan does not use it."""

    @property
    def target(self) -> str:
        """Return the path with the query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def plain_target(self) -> str:
        """Return the path with the query, without percent-encoding."""
        return unquote(self.target)


@dataclass(frozen=True)
class HeaderKey:
    """Send a secret in a header, as in `HeaderKey("Authorization", prefix="Bearer ")`."""

    name: str
    secret: SecretName = "API_KEY"
    prefix: str = ""

    signed: bool = False
    """Whether to send the HMAC-SHA256 of the secret with `API_SECRET`, in base64, instead of the secret itself."""

    def __post_init__(self) -> None:
        _check_header("HeaderKey", "name", self.name)
        _check_choice("HeaderKey", "secret", self.secret, SECRET_NAMES)

    @property
    def secrets(self) -> frozenset[SecretName]:
        return frozenset([self.secret, "API_SECRET"] if self.signed else [self.secret])


@dataclass(frozen=True)
class QueryKey:
    """Send a secret as a parameter of the query, as in `QueryKey("apikey")`."""

    name: str
    secret: SecretName = "API_KEY"

    def __post_init__(self) -> None:
        _check_text("QueryKey", "name", self.name)
        _check_choice("QueryKey", "secret", self.secret, SECRET_NAMES)

    @property
    def secrets(self) -> frozenset[SecretName]:
        return frozenset([self.secret])


@dataclass(frozen=True)
class BasicLogin:
    """Send a user and a password with HTTP Basic authentication."""

    user: SecretName = "API_KEY"
    password: SecretName | None = "API_SECRET"
    """None: the password is empty."""

    def __post_init__(self) -> None:
        _check_choice("BasicLogin", "user", self.user, SECRET_NAMES)
        _check_choice("BasicLogin", "password", self.password, (*SECRET_NAMES, None))

    @property
    def secrets(self) -> frozenset[SecretName]:
        return frozenset([self.user, self.password] if self.password else [self.user])


@dataclass(frozen=True)
class Signature:
    """Sign each request with an HMAC of `API_SECRET`. Exactly one of `header` and `query` names its place."""

    message: Callable[[SignedRequest], str | bytes]
    """Return what is signed, such as `lambda request: request.timestamp + request.method + request.target`."""

    header: str | None = None
    query: str | None = None
    digest: Digest = "sha256"
    encoding: Encoding = "hex"

    secret_is_base64: bool = False
    """Whether to decode the secret before it is used as the key of the HMAC."""

    unit: TimeUnit = "milliseconds"
    """The unit of the timestamp since 1970. iso: a text such as 2026-01-31T12:00:00.000Z."""

    timestamp_header: str | None = None
    timestamp_query: str | None = None

    timestamp_member: str | None = None
    """The member that is added to a JSON body, for an upstream that expects its nonce there."""

    def __post_init__(self) -> None:
        if not callable(self.message):
            raise ValueError(f"Signature.message must be a function of the request, but is {self.message!r}.")
        if (self.header is None) == (self.query is None):
            raise ValueError("Signature: name the place of the signature with exactly one of `header` and `query`.")
        for member, value in (("header", self.header), ("timestamp_header", self.timestamp_header)):
            if value is not None:
                _check_header("Signature", member, value)
        for member in ("query", "timestamp_query", "timestamp_member"):
            if getattr(self, member) is not None:
                _check_text("Signature", member, getattr(self, member))
        _check_choice("Signature", "digest", self.digest, get_args(Digest))
        _check_choice("Signature", "encoding", self.encoding, get_args(Encoding))
        _check_choice("Signature", "unit", self.unit, get_args(TimeUnit))

    @property
    def secrets(self) -> frozenset[SecretName]:
        return frozenset(["API_SECRET"])


@dataclass(frozen=True)
class ClientCredentials:
    """Get a token with OAuth 2 client credentials, and send it as `Authorization: Bearer`.

    `API_KEY` is the client's id and `API_SECRET` its secret. Both are sent to the host of `token_url` only.
    """

    token_url: str
    """The address of the token endpoint. A path, such as `/oauth/token`, belongs to the base URL."""

    scope: str | None = None
    audience: str | None = None

    login: ClientLogin = "basic"
    """Whether the endpoint expects the client's id and secret as HTTP Basic or in the form."""

    def __post_init__(self) -> None:
        _check_text("ClientCredentials", "token_url", self.token_url)
        parts = urlsplit(self.token_url)
        is_url = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        if not is_url and not re.fullmatch(r"/[^/\s]\S*", self.token_url):
            raise ValueError(
                "ClientCredentials.token_url must be a URL that starts with https:// and contains no user, or a path "
                "that starts with `/`."
            )
        _check_choice("ClientCredentials", "login", self.login, get_args(ClientLogin))

    @property
    def secrets(self) -> frozenset[SecretName]:
        return frozenset(["API_KEY", "API_SECRET"])


Auth = HeaderKey | QueryKey | BasicLogin | Signature | ClientCredentials


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError if a name or a value cannot be sent in a header."""
    for name, value in headers.items():
        _check_header("Upstream", "headers", name)
        if not re.fullmatch(r"[ -~]*", value):
            raise ValueError(
                f"Upstream.headers[{name!r}] must be a text of visible ASCII characters, but is {value!r}."
            )


def _check_header(kind: str, member: str, value: Any) -> None:
    if not isinstance(value, str) or not _HEADER.fullmatch(value):
        raise ValueError(f"{kind}.{member} must be the name of an HTTP header, but is {value!r}.")


def _check_text(kind: str, member: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{kind}.{member} must be a text with at least one character, but is {value!r}.")


def _check_choice(kind: str, member: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{kind}.{member} must be one of {', '.join(map(repr, choices))}, but is {value!r}.")
