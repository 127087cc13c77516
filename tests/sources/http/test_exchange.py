"""Test POST requests, and that each refusal quotes the upstream's words without a secret."""

from __future__ import annotations

import gzip
import json
import socket
from base64 import b64encode
from urllib.parse import quote

import pytest
from pytest_httpserver import HTTPServer

from sources.contract import TerminalError, TransientError
from sources.http.revalidation import KnownResponse
from tests.sources.conftest import KEY, Clients, RawServer, RawUpstream, make_response, serve, within

BODY = {"pairs": ["BTC/USD", "€"], "depth": 5}

# POST


def test_a_post_sends_its_body_and_stores_it_with_the_request(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(body="[1]", ETag='"v1"'))
    response = client(upstream.url_for("")).post("/tickers", BODY, {"page": 2})
    assert response.body == b"[1]"
    assert response.request == {
        "method": "POST",
        "url": upstream.url_for("/tickers"),
        "params": {"page": 2},
        "json": BODY,
    }
    [request] = requests
    assert (request.method, request.content_type, request.headers["X-Key"]) == ("POST", "application/json", KEY)
    assert json.loads(request.get_data()) == BODY
    assert response.etag is None


def test_a_post_is_never_conditional_but_an_unchanged_body_is_noticed(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(body="[1]"))
    http = client(upstream.url_for(""))
    digest = bytes.fromhex("080a9ed428559ef602668b4c00f114f1a11c3f6b02a435f0bdc154578e4d7f22")
    known = KnownResponse('"v1"', None, digest, "application/json", lambda: b"[1]")
    response = http.with_known_responses(lambda request: known).post("/tickers", BODY)
    assert not {"If-None-Match", "If-Modified-Since"} & set(requests[0].headers.keys())
    assert response.unchanged


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_method_repeats_the_body(upstream: HTTPServer, client: Clients, status: int) -> None:
    upstream.expect_request("/old").respond_with_data("", status, {"Location": "/tickers"})
    requests = serve(upstream, make_response())
    client(upstream.url_for("")).post("/old", BODY)
    assert [(request.method, json.loads(request.get_data())) for request in requests] == [("POST", BODY)]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_body_is_an_error(upstream: HTTPServer, client: Clients, status: int) -> None:
    upstream.expect_request("/old").respond_with_data("Moved.", status, {"Location": "/tickers"})
    requests = serve(upstream, make_response())
    with pytest.raises(TerminalError, match=r"only 307 and 308 keep the body.* it says “Moved\.”") as caught:
        client(upstream.url_for("")).post("/old", BODY)
    assert (caught.value.code, requests) == ("redirected", [])


@pytest.mark.usefixtures("quick_retries")
def test_a_post_is_retried_after_a_transient_error(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(503), make_response(body="[1]"))
    assert client(upstream.url_for("")).post("/tickers", BODY).body == b"[1]"
    assert [json.loads(request.get_data()) for request in requests] == [BODY, BODY]
    assert (client.spent, client.outcomes) == (2, [False, True])


# The key stays where it belongs


@pytest.mark.parametrize("path", ["@{other}/", ".{other}/", ":80@{other}/x"])
def test_a_path_that_leads_to_another_origin_is_refused(
    upstream: HTTPServer, another_upstream: HTTPServer, client: Clients, path: str
) -> None:
    base = upstream.url_for("").rstrip("/")
    with pytest.raises(TerminalError, match="leads to another origin"):
        client(base).get(path.format(other=f"127.0.0.1:{another_upstream.port}"))
    assert another_upstream.log == upstream.log == []


@pytest.mark.parametrize("form", [KEY, quote(KEY, safe=""), b64encode(KEY.encode()).decode()])
def test_a_request_that_contains_the_key_is_refused_before_it_is_sent(
    upstream: HTTPServer, client: Clients, form: str
) -> None:
    http = client(upstream.url_for(""))
    for send in (
        lambda: http.get("/tickers", {"key": form}),
        lambda: http.post("/tickers", {"a": [{"b": form}]}),
        lambda: http.get(f"/{form}/tickers"),
    ):
        with pytest.raises(TerminalError, match=r"declare the place of the key in `Upstream\.auth`") as caught:
            send()
        assert KEY not in caught.value.detail
    assert upstream.log == []


# The words of a refusal

WORDS = f'{{"error": "add a User-Agent; key {KEY}, {quote(KEY)}, {b64encode(KEY.encode()).decode()}"}}'
HIDDEN_WORDS = '{"error": "add a User-Agent; key [hidden], [hidden], [hidden]'


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 405, 408, 410, 418, 422, 425, 429, 451, 500, 503, 520, 302]
)
def test_each_refusal_quotes_the_words_of_the_upstream(upstream: HTTPServer, client: Clients, status: int) -> None:
    headers = {"Location": f"http://me:{KEY}@{KEY}.example.com/{KEY}"} if status == 302 else {}
    serve(upstream, make_response(status, WORDS, **headers))
    with pytest.raises((TerminalError, TransientError)) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert HIDDEN_WORDS in str(caught.value)
    assert KEY.lower() not in (str(caught.value) + repr(caught.value) + caught.value.detail).lower()


@pytest.mark.parametrize(
    ("status", "key_header", "code"),
    [
        (401, "", "key_missing"),
        (403, "", "upstream_forbidden"),
        (402, "", "payment_required"),
        (401, "X-Key", "key_refused"),
        (403, "X-Key", "key_refused"),
    ],
)
def test_a_refusal_without_a_key_has_another_code(
    upstream: HTTPServer, client: Clients, status: int, key_header: str, code: str
) -> None:
    serve(upstream, make_response(status, "no"))
    with pytest.raises(TerminalError) as caught:
        client(upstream.url_for(""), key_header=key_header).get("/tickers")
    assert (caught.value.code, caught.value.pause is not None) == (code, True)
    assert ("no key was sent" in caught.value.detail) == (not key_header and status != 402)


def test_the_words_of_a_compressed_refusal_are_quoted(upstream: HTTPServer, client: Clients) -> None:
    serve(upstream, make_response(403, gzip.compress(b"<html><p>Banned for an hour"), Content_Encoding="gzip"))
    with pytest.raises(TerminalError, match="it says HTML with the text “Banned for an hour”"):
        client(upstream.url_for("")).get("/tickers")


@pytest.mark.parametrize("length", [b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
def test_a_refusal_whose_body_does_not_end_is_quoted_as_far_as_it_came(
    raw_upstream: RawUpstream, client: Clients, monkeypatch: pytest.MonkeyPatch, length: bytes
) -> None:
    monkeypatch.setattr("sources.http.responses.WORDS_SECONDS", 0.3)

    def refuse(server: RawServer, connection: socket.socket) -> None:
        text = b"w" * 2000
        chunk = b"7d0\r\n" + text + b"\r\n" if b"chunked" in length else text
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\n" + length + b"\r\n\r\n" + chunk)
        server.stopped.wait(10)

    with within(4), pytest.raises(TerminalError, match="; it says “www") as caught:
        client(raw_upstream(refuse).url, deadline=30).get("/tickers")
    assert caught.value.code == "key_refused"


@pytest.mark.usefixtures("quick_retries")
def test_a_body_that_repeats_the_key_is_quoted_without_it(upstream: HTTPServer, client: Clients) -> None:
    for body in (WORDS, b64encode(f"user:{KEY}".encode()), f"<html><p>{KEY}".encode()):
        upstream.clear()
        serve(upstream, make_response(200, body))
        with pytest.raises(TransientError, match=r"contains the key of the request; it says .*hidden") as caught:
            client(upstream.url_for("")).get("/tickers")
        assert KEY not in caught.value.detail
