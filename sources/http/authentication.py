"""Add an upstream's key, signature or token to a request, as its plan declares (sources/auth.py)."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import requests

from sources.auth import (
    Auth,
    BasicLogin,
    ClientCredentials,
    HeaderKey,
    QueryKey,
    SecretName,
    Signature,
    SignedRequest,
)
from sources.contract import EPOCH, TerminalError
from sources.redaction import Redactor, process_redactor

MIN_SECRET_CHARS = 8
"""Minimum length of a secret that is looked for in the requests of a source."""

_MICROSECONDS: Final = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}


@dataclass(frozen=True)
class Credentials:
    """A plan's declarations with their secrets, which the repr does not show."""

    auth: tuple[Auth, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[SecretName, str] = field(default_factory=dict, repr=False)

    @property
    def client(self) -> ClientCredentials | None:
        """Return the declaration of a token, or None."""
        return next((part for part in self.auth if isinstance(part, ClientCredentials)), None)

    @property
    def sent_values(self) -> tuple[str, ...]:
        """Return the secrets, and the values that are derived from them once."""
        headers = [header_value(part, self.secrets) for part in self.auth if isinstance(part, HeaderKey)]
        logins = [login_value(part, self.secrets) for part in self.auth if isinstance(part, BasicLogin)]
        return (*self.secrets.values(), *headers, *logins)


class Authenticator(requests.auth.AuthBase):
    """Authenticate the requests of one client, with the `auth` hook of requests.

    The hook sees each request as it will be sent, and is called again for each retry and redirect.
    """

    def __init__(self, credentials: Credentials, clock: Callable[[], datetime]):
        self.credentials, self._clock = credentials, clock
        self.token: str | None = None
        self._redactor = Redactor(credentials.sent_values)
        self._long_secrets = Redactor(value for value in credentials.sent_values if len(value) >= MIN_SECRET_CHARS)
        # Tests and key rotations may change the environment after the process has started.
        process_redactor().add(*credentials.sent_values)
        self._last_nonce = 0
        self._signatures: list[str] = []

    def use_token(self, token: str) -> None:
        """Send this token from now on, and show it nowhere."""
        self.token = token
        self._redactor.add(token)
        process_redactor().add(token)

    def hide(self, text: str) -> str:
        """Return the text without any secret of the process and without the signatures of the last request."""
        return Redactor(self._signatures).hide(process_redactor().hide(text))

    def is_in_request(self, request: Mapping[str, Any]) -> bool:
        """Return whether a request contains a secret. A key such as `demo` may be part of a request by chance."""
        return self._long_secrets.is_in(json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass"))

    def is_in(self, body: bytes) -> bool:
        """Return whether a body repeats a secret or the signature of the last request."""
        signatures = {form.encode() for value in self._signatures for form in (value, quote(value, safe=""))}
        return self._redactor.is_in(body) or any(form in body for form in signatures)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add everything that the plan declares."""
        self._signatures.clear()
        request.headers.update(self.credentials.headers)
        for part in self.credentials.auth:
            self._add(part, request)
        return request

    def _add(self, part: Auth, request: requests.PreparedRequest) -> None:
        secrets = self.credentials.secrets
        match part:
            case HeaderKey():
                request.headers[part.name] = part.prefix + header_value(part, secrets)
            case QueryKey():
                _set_query(request, part.name, secrets[part.secret])
            case BasicLogin():
                request.headers["Authorization"] = f"Basic {login_value(part, secrets)}"
            case ClientCredentials():
                if self.token:
                    request.headers["Authorization"] = f"Bearer {self.token}"
            case Signature():
                self._sign(part, request)

    def _sign(self, part: Signature, request: requests.PreparedRequest) -> None:
        """Add the time and the signature. The signature comes last, since it covers everything else."""
        timestamp = self._timestamp(part)
        if part.query is not None:
            _remove_query(request, part.query)
        if part.timestamp_query is not None:
            _set_query(request, part.timestamp_query, timestamp)
        if part.timestamp_header is not None:
            request.headers[part.timestamp_header] = timestamp
        if part.timestamp_member is not None and request.body:
            _set_member(request, part.timestamp_member, timestamp)
        value = signature_of(part, _signed_request(request, timestamp, self.credentials), self.credentials.secrets)
        self._signatures.append(value)
        if part.header is not None:
            request.headers[part.header] = value
        if part.query is not None:
            _set_query(request, part.query, value)

    def _timestamp(self, part: Signature) -> str:
        """Return the time of the request. In units below a second, it increases with each request, as a nonce does."""
        now = self._clock()
        if part.unit == "iso":
            return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        number = (now - EPOCH) // EPOCH.resolution // _MICROSECONDS[part.unit]
        if part.unit != "seconds":
            number = self._last_nonce = max(number, self._last_nonce + 1)
        return str(number)


def header_value(part: HeaderKey, secrets: Mapping[SecretName, str]) -> str:
    """Return the secret of a header, or its HMAC-SHA256 in base64."""
    if not part.signed:
        return secrets[part.secret]
    return b64encode(hmac.digest(secrets["API_SECRET"].encode(), secrets[part.secret].encode(), "sha256")).decode()


def login_value(part: BasicLogin, secrets: Mapping[SecretName, str]) -> str:
    """Return the value of HTTP Basic authentication, after the word Basic."""
    password = secrets[part.password] if part.password else ""
    return b64encode(f"{secrets[part.user]}:{password}".encode()).decode()


def signature_of(part: Signature, request: SignedRequest, secrets: Mapping[SecretName, str]) -> str:
    """Return the signature of a request; raise TerminalError if the declaration or the secret is unsuitable."""
    message = part.message(request)
    if not isinstance(message, str | bytes):
        raise TerminalError(
            f"Signature.message must return text or bytes, but returned {type(message).__name__}.", code="misconfigured"
        )
    data = message.encode() if isinstance(message, str) else message
    digest = hmac.digest(_signing_key(part, secrets["API_SECRET"]), data, part.digest)
    return digest.hex() if part.encoding == "hex" else b64encode(digest).decode()


def _signing_key(part: Signature, secret: str) -> bytes:
    if not part.secret_is_base64:
        return secret.encode()
    try:
        return b64decode(secret, validate=True)
    except ValueError:
        raise TerminalError("API_SECRET must be in base64 for this upstream.", code="misconfigured") from None


def _signed_request(request: requests.PreparedRequest, timestamp: str, credentials: Credentials) -> SignedRequest:
    parts, body = urlsplit(request.url or ""), request.body or b""
    return SignedRequest(
        method=request.method or "",
        path=parts.path,
        query=parts.query,
        body=body.decode() if isinstance(body, bytes) else str(body),
        timestamp=timestamp,
        key=credentials.secrets.get("API_KEY", ""),
    )


def _set_query(request: requests.PreparedRequest, name: str, value: str) -> None:
    """Append a parameter to the query. Replace the one that a redirect's target may repeat."""
    _remove_query(request, name)
    parts = urlsplit(request.url or "")
    query = f"{parts.query}&" if parts.query else ""
    request.url = urlunsplit(parts._replace(query=f"{query}{urlencode({name: value}, quote_via=quote, safe='')}"))


def _remove_query(request: requests.PreparedRequest, name: str) -> None:
    parts = urlsplit(request.url or "")
    members = [member for member in parts.query.split("&") if member]
    kept = [member for member in members if parse_qsl(member, keep_blank_values=True)[0][0] != name]
    if len(kept) < len(members):
        request.url = urlunsplit(parts._replace(query="&".join(kept)))


def _set_member(request: requests.PreparedRequest, name: str, value: str) -> None:
    """Add a member to a JSON body that is an object."""
    body: Any = json.loads(request.body or b"null")
    if isinstance(body, dict):
        request.body = dump_json({**body, name: value})
        request.prepare_content_length(request.body)


def dump_json(value: Any) -> bytes:
    """Return JSON without spaces, as upstreams expect it under a signature."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
