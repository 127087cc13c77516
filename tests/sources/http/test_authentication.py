"""Test that requests carry keys and signatures as exchanges expect them, checked as the exchanges check them."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from sources.auth import Auth, BasicLogin, HeaderKey, QueryKey, SecretName, Signature, SignedRequest
from sources.contract import TerminalError
from sources.http.authentication import Credentials, signature_of
from tests.sources.conftest import NOW, Clients, make_response

SECRETS: dict[SecretName, str] = {
    "API_KEY": "the-public-key-of-us",
    "API_SECRET": b64encode(b"the secret of the exchange").decode(),
    "API_PASSPHRASE": "the-passphrase-of-us",
}
KEY, SECRET, PASSPHRASE = SECRETS.values()
FIRST = int(NOW.timestamp() * 1000)
MILLISECONDS = (str(FIRST), str(FIRST + 1))
"""The times of a request and of the one after a redirect, since a nonce increases with each."""

BODY = {"symbol": "BTC-€", "depth": 5}
SENT_BODY = '{"symbol":"BTC-€","depth":5}'


def mac(secret: bytes, message: str | bytes, digest: str = "sha256") -> bytes:
    return hmac.new(secret, message.encode() if isinstance(message, str) else message, digest).digest()


def kraken_message(request: SignedRequest) -> bytes:
    return request.path.encode() + hashlib.sha256((request.timestamp + request.body).encode()).digest()


KRAKEN = Signature(
    kraken_message,
    header="API-Sign",
    digest="sha512",
    encoding="base64",
    secret_is_base64=True,
    timestamp_member="nonce",
)
BINANCE = Signature(lambda request: request.query + request.body, query="signature", timestamp_query="timestamp")


# The exchanges' published examples


def test_the_example_of_binance_has_its_signature() -> None:
    """See https://developers.binance.com/docs/binance-spot-api-docs/rest-api/request-security."""
    query = (
        "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559"
    )
    request = SignedRequest("POST", "/api/v3/order", query, "", "1499827319559", "")
    secret = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
    expected = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
    assert signature_of(BINANCE, request, {"API_SECRET": secret}) == expected


def test_the_example_of_kraken_has_its_signature() -> None:
    """See https://docs.kraken.com/api/docs/guides/spot-rest-auth."""
    body = "nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"
    request = SignedRequest("POST", "/0/private/AddOrder", "", body, "1616492376594", "")
    secret = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="
    expected = "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ=="
    assert signature_of(KRAKEN, request, {"API_SECRET": secret}) == expected


# Servers that check requests as the exchanges do


def query_of(request: Request) -> str:
    return request.query_string.decode()


def target_of(request: Request) -> str:
    return f"{request.path}?{query_of(request)}" if query_of(request) else request.path


def is_for_binance(request: Request) -> bool:
    signed, _, signature = query_of(request).rpartition("&signature=")
    expected = mac(SECRET.encode(), signed + request.get_data(as_text=True)).hex()
    return (signature, request.headers["X-MBX-APIKEY"]) == (expected, KEY) and request.args["timestamp"] in MILLISECONDS


def is_for_kraken(request: Request) -> bool:
    body = request.get_data(as_text=True)
    nonce = str(json.loads(body)["nonce"])
    message = request.path.encode() + hashlib.sha256((nonce + body).encode()).digest()
    expected = b64encode(mac(b64decode(SECRET), message, "sha512")).decode()
    return (request.headers["API-Sign"], request.headers["API-Key"]) == (expected, KEY) and nonce in MILLISECONDS


def is_for_coinbase(request: Request) -> bool:
    timestamp = request.headers["CB-ACCESS-TIMESTAMP"]
    message = timestamp + request.method + target_of(request) + request.get_data(as_text=True)
    expected = b64encode(mac(b64decode(SECRET), message)).decode()
    headers = [request.headers[f"CB-ACCESS-{name}"] for name in ("SIGN", "KEY", "PASSPHRASE")]
    return (headers, timestamp) == ([expected, KEY, PASSPHRASE], str(int(NOW.timestamp())))


def is_for_okx(request: Request) -> bool:
    timestamp = request.headers["OK-ACCESS-TIMESTAMP"]
    message = timestamp + request.method + target_of(request) + request.get_data(as_text=True)
    expected = b64encode(mac(SECRET.encode(), message)).decode()
    headers = [request.headers[f"OK-ACCESS-{name}"] for name in ("SIGN", "KEY", "PASSPHRASE")]
    return (headers, timestamp) == ([expected, KEY, PASSPHRASE], "2026-01-02T03:04:05.000Z")


def is_for_kucoin(request: Request) -> bool:
    timestamp = request.headers["KC-API-TIMESTAMP"]
    message = timestamp + request.method + unquote(target_of(request)) + request.get_data(as_text=True)
    expected = [b64encode(mac(SECRET.encode(), text)).decode() for text in (message, PASSPHRASE)]
    headers = [request.headers[f"KC-API-{name}"] for name in ("SIGN", "PASSPHRASE", "KEY", "KEY-VERSION")]
    return headers == [*expected, KEY, "3"] and timestamp in MILLISECONDS


def is_for_bybit(request: Request) -> bool:
    timestamp = request.headers["X-BAPI-TIMESTAMP"]
    message = f"{timestamp}{KEY}5000{query_of(request)}{request.get_data(as_text=True)}"
    headers = [request.headers[f"X-BAPI-{name}"] for name in ("SIGN", "API-KEY", "RECV-WINDOW")]
    return headers == [mac(SECRET.encode(), message).hex(), KEY, "5000"] and timestamp in MILLISECONDS


def whole_request(request: SignedRequest) -> str:
    return request.timestamp + request.method + request.target + request.body


EXCHANGES: dict[str, tuple[tuple[Auth, ...], dict[str, str], Callable[[Request], bool]]] = {
    "binance": ((HeaderKey("X-MBX-APIKEY"), BINANCE), {}, is_for_binance),
    "kraken": ((HeaderKey("API-Key"), KRAKEN), {}, is_for_kraken),
    "coinbase": (
        (
            HeaderKey("CB-ACCESS-KEY"),
            HeaderKey("CB-ACCESS-PASSPHRASE", "API_PASSPHRASE"),
            Signature(
                whole_request,
                header="CB-ACCESS-SIGN",
                encoding="base64",
                secret_is_base64=True,
                unit="seconds",
                timestamp_header="CB-ACCESS-TIMESTAMP",
            ),
        ),
        {},
        is_for_coinbase,
    ),
    "okx": (
        (
            HeaderKey("OK-ACCESS-KEY"),
            HeaderKey("OK-ACCESS-PASSPHRASE", "API_PASSPHRASE"),
            Signature(
                whole_request,
                header="OK-ACCESS-SIGN",
                encoding="base64",
                unit="iso",
                timestamp_header="OK-ACCESS-TIMESTAMP",
            ),
        ),
        {},
        is_for_okx,
    ),
    "kucoin": (
        (
            HeaderKey("KC-API-KEY"),
            HeaderKey("KC-API-PASSPHRASE", "API_PASSPHRASE", signed=True),
            Signature(
                lambda request: request.timestamp + request.method + request.plain_target + request.body,
                header="KC-API-SIGN",
                encoding="base64",
                timestamp_header="KC-API-TIMESTAMP",
            ),
        ),
        {"KC-API-KEY-VERSION": "3"},
        is_for_kucoin,
    ),
    "bybit": (
        (
            HeaderKey("X-BAPI-API-KEY"),
            Signature(
                lambda request: f"{request.timestamp}{request.key}5000{request.query}{request.body}",
                header="X-BAPI-SIGN",
                timestamp_header="X-BAPI-TIMESTAMP",
            ),
        ),
        {"X-BAPI-RECV-WINDOW": "5000"},
        is_for_bybit,
    ),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("auth", "headers", "is_valid"), EXCHANGES.values(), ids=EXCHANGES)
def test_a_signed_request_is_accepted_also_after_a_redirect(
    upstream: HTTPServer,
    client: Clients,
    auth: tuple[Auth, ...],
    headers: dict[str, str],
    is_valid: Callable[[Request], bool],
    method: str,
) -> None:
    if method == "GET" and any(isinstance(part, Signature) and part.timestamp_member for part in auth):
        pytest.skip("This exchange expects its nonce in a body.")
    verdicts: list[bool] = []

    def check(request: Request) -> Response:
        verdicts.append(is_valid(request))
        return make_response()

    upstream.expect_request("/api/depth").respond_with_handler(check)
    upstream.expect_request("/api/moved").respond_with_data("", 307, {"Location": "/api/depth?symbol=BTC%20USD&x=1"})
    for path in ("/depth", "/moved"):
        http = client(upstream.url_for("/api"), credentials=Credentials(auth, headers, SECRETS))
        params = {"symbol": "BTC USD+€", "limit": 5}
        response = http.get(path, params) if method == "GET" else http.post(path, BODY, params)
        assert response.request == {
            "method": method,
            "url": upstream.url_for(f"/api{path}"),
            "params": params,
            **({"json": BODY} if method == "POST" else {}),
        }
    assert verdicts == [True, True]
    assert all(secret not in repr(http) for secret in SECRETS.values())


def test_a_nonce_increases_with_each_request(upstream: HTTPServer, client: Clients) -> None:
    nonces: list[int] = []

    def respond(request: Request) -> Response:
        nonces.append(int(json.loads(request.get_data())["nonce"]))
        return make_response()

    upstream.expect_request("/tickers").respond_with_handler(respond)
    http = client(upstream.url_for(""), credentials=Credentials((KRAKEN,), {}, SECRETS))
    for _ in range(3):
        assert http.post("/tickers", BODY).request["json"] == BODY
    assert nonces == [FIRST + index for index in range(3)]


def test_a_key_in_the_query_is_appended_once_and_is_not_part_of_the_request(
    upstream: HTTPServer, client: Clients
) -> None:
    """The upstream repeats the query in its redirect, as many do."""
    queries: list[str] = []

    def respond(request: Request) -> Response:
        queries.append(query_of(request))
        return make_response(301, Location=f"/tickers?{query_of(request)}")

    upstream.expect_request("/old").respond_with_handler(respond)
    upstream.expect_request("/tickers").respond_with_handler(
        lambda request: queries.append(query_of(request)) or make_response()
    )
    secrets: dict[SecretName, str] = {"API_KEY": "k&y=+/%"}
    http = client(upstream.url_for(""), credentials=Credentials((QueryKey("apikey"),), {}, secrets))
    response = http.get("/old", {"page": 2})
    assert queries == ["page=2&apikey=k%26y%3D%2B%2F%25"] * 2
    assert response.request["params"] == {"page": 2}


def test_a_login_is_sent_with_http_basic(upstream: HTTPServer, client: Clients) -> None:
    logins: list[tuple[str | None, str | None]] = []

    def respond(request: Request) -> Response:
        assert request.authorization
        logins.append((request.authorization.username, request.authorization.password))
        return make_response()

    upstream.expect_request("/tickers").respond_with_handler(respond)
    for auth in (BasicLogin(), BasicLogin(password=None)):
        client(upstream.url_for(""), credentials=Credentials((auth,), {}, SECRETS)).get("/tickers")
    assert logins == [(KEY, SECRET), (KEY, "")]


def test_a_secret_that_is_not_in_base64_is_named(upstream: HTTPServer, client: Clients) -> None:
    credentials = Credentials((KRAKEN,), {}, {"API_SECRET": "no base64!"})
    with pytest.raises(TerminalError, match="API_SECRET must be in base64") as caught:
        client(upstream.url_for(""), credentials=credentials).post("/tickers", BODY)
    assert caught.value.code == "misconfigured"
    assert upstream.log == []
