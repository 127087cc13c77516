"""Test that a token is fetched once, renewed before it expires, and replaced once if it is refused."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.auth import ClientCredentials, SecretName
from sources.contract import TerminalError, TransientError
from sources.http import tokens
from sources.http.authentication import Credentials
from sources.http.client import HttpClient
from sources.http.tokens import read_token
from tests.sources.conftest import Clients, make_response, serve

SECRETS: dict[SecretName, str] = {"API_KEY": "client-of-us", "API_SECRET": "s3cret/of+the=client"}


@pytest.fixture(autouse=True)
def no_cached_tokens() -> Iterator[None]:
    tokens._TOKENS.clear()
    yield
    tokens._TOKENS.clear()


class TokenUpstream:
    """An upstream with an OAuth endpoint. It accepts only the newest of its tokens.

    lifetime: the value of `expires_in`, or None to leave it out.
    """

    def __init__(self, server: HTTPServer):
        self.issued: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.refused = 0
        self.lifetime: object = 3600
        server.expect_request("/oauth/token", method="POST").respond_with_handler(self.issue)
        server.expect_request("/tickers").respond_with_handler(self.respond)

    def issue(self, request: Request) -> Response:
        login, form = request.authorization, request.form.to_dict()
        key, secret = form.pop("client_id", ""), form.pop("client_secret", "")
        if login:
            key, secret = unquote(str(login.username)), unquote(str(login.password))
        if (key, secret) != tuple(SECRETS.values()):
            return make_response(401, f'{{"error": "invalid_client", "secret": "{secret}"}}')
        self.forms.append(form)
        self.issued.append(f"token-{len(self.issued)}-0123456789")
        lifetime = "" if self.lifetime is None else f', "expires_in": {self.lifetime}'
        return make_response(body=f'{{"access_token": "{self.issued[-1]}", "client_id": "{key}"{lifetime}}}')

    def respond(self, request: Request) -> Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self.issued or token != self.issued[-1]:
            self.refused += 1
            return make_response(401, f"token {token} has expired")
        return make_response()


@pytest.fixture
def oauth(upstream: HTTPServer) -> TokenUpstream:
    return TokenUpstream(upstream)


def open_client(client: Clients, upstream: HTTPServer, *, secret: str | None = None, **options: object) -> HttpClient:
    auth = ClientCredentials("/oauth/token", **options)  # type: ignore[arg-type]
    secrets = {**SECRETS, **({"API_SECRET": secret} if secret else {})}
    return client(upstream.url_for(""), credentials=Credentials((auth,), {}, secrets))


@pytest.mark.parametrize("login", ["basic", "body"])
def test_a_token_is_shared_by_the_clients_of_a_process(
    upstream: HTTPServer, client: Clients, oauth: TokenUpstream, login: str
) -> None:
    for _ in range(2):
        http = open_client(client, upstream, login=login, scope="read:prices")
        assert http.get("/tickers").request["params"] == {}
        assert http.get("/tickers", {"page": 2}).body == b"[]"
    assert (len(oauth.issued), oauth.refused) == (1, 0)
    assert oauth.forms == [{"grant_type": "client_credentials", "scope": "read:prices"}]
    assert client.spent == 5


@pytest.mark.parametrize(
    ("lifetime", "seconds", "issued"),
    [(3600, 3539, 1), (3600, 3541, 2), (20, 17, 1), (20, 19, 2), (None, 269, 1), (None, 271, 2), ('"3600"', 3541, 2)],
)
def test_a_token_is_renewed_shortly_before_it_expires(
    upstream: HTTPServer,
    client: Clients,
    oauth: TokenUpstream,
    monkeypatch: pytest.MonkeyPatch,
    lifetime: object,
    seconds: float,
    issued: int,
) -> None:
    oauth.lifetime = lifetime
    open_client(client, upstream).get("/tickers")
    later = time.monotonic() + seconds
    with monkeypatch.context() as patch:
        patch.setattr(tokens.time, "monotonic", lambda: later)
        http = open_client(client, upstream)
        http._tokens.ensure(tokens.Deadline(4))
    assert len(oauth.issued) == issued


def test_a_refused_token_is_replaced_once(upstream: HTTPServer, client: Clients, oauth: TokenUpstream) -> None:
    http = open_client(client, upstream)
    http.get("/tickers")
    oauth.issued.append("revoked all earlier tokens")
    assert http.get("/tickers").body == b"[]"
    assert (len(oauth.issued), oauth.refused) == (3, 1)


def test_a_new_token_that_is_refused_is_an_error_without_the_token(
    upstream: HTTPServer, client: Clients, oauth: TokenUpstream
) -> None:
    oauth.respond = lambda request: make_response(401, f"no {request.headers['Authorization']}")  # type: ignore[method-assign]
    upstream.clear()
    upstream.expect_request("/oauth/token").respond_with_handler(oauth.issue)
    requests = serve(upstream, make_response(401, "nobody may read"))
    with pytest.raises(TerminalError, match="returned 401 for GET /tickers; it says “nobody may read”") as caught:
        open_client(client, upstream).get("/tickers")
    assert (caught.value.code, len(oauth.issued), len(requests)) == ("key_refused", 1, 1)


def test_a_refused_login_is_an_error_without_the_secret(
    upstream: HTTPServer, client: Clients, oauth: TokenUpstream
) -> None:
    with pytest.raises(TerminalError) as caught:
        open_client(client, upstream, secret="an0ther-s3cret", login="body").get("/tickers")
    assert caught.value.code == "key_refused"
    assert "POST /oauth/token" in caught.value.detail
    assert '“{"error": "invalid_client", "secret": "[hidden]"}”' in caught.value.detail


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("body", ["<html>", "[]", '{"token": "s3cret-t0ken"}', '{"access_token": "two words"}'])
def test_a_response_without_a_token_is_an_error_that_shows_no_value(
    upstream: HTTPServer, client: Clients, body: str
) -> None:
    upstream.expect_request("/oauth/token").respond_with_data(body)
    with pytest.raises(TransientError, match="returned no `access_token`") as caught:
        open_client(client, upstream).get("/tickers")
    assert caught.value.code == "unexpected_body"
    assert "s3cret" not in caught.value.detail


def test_the_secret_does_not_follow_a_redirect_of_the_token_endpoint(
    upstream: HTTPServer, another_upstream: HTTPServer, client: Clients
) -> None:
    for status in (302, 307):
        upstream.clear()
        location = another_upstream.url_for("/oauth/token")
        upstream.expect_request("/oauth/token").respond_with_data("", status, {"Location": location})
        with pytest.raises(TerminalError) as caught:
            open_client(client, upstream).get("/tickers")
        assert caught.value.code == "redirected"
        assert another_upstream.log == []


def test_the_token_of_another_host_is_requested_there_with_the_login_only_there(
    upstream: HTTPServer, another_upstream: HTTPServer, client: Clients
) -> None:
    oauth = TokenUpstream(another_upstream)
    requests = serve(upstream, make_response())
    auth = ClientCredentials(another_upstream.url_for("/oauth/token"))
    client(upstream.url_for(""), credentials=Credentials((auth,), {}, SECRETS)).get("/tickers")
    assert [request.headers["Authorization"] for request in requests] == [f"Bearer {oauth.issued[0]}"]
    login = another_upstream.log[0][0].headers["Authorization"].removeprefix("Basic ")
    assert unquote(b64decode(login).decode()) == "client-of-us:s3cret/of+the=client"


def test_an_implausible_lifetime_is_replaced() -> None:
    for lifetime in ("-5", "0", "1e999", '"soon"', "null"):
        token = read_token("example", f'{{"access_token": "t", "expires_in": {lifetime}}}'.encode(), 0)
        assert token.renew_at == tokens.DEFAULT_SECONDS - 30
