"""Test how refusals, Retry-After headers, and broken or oversized bodies are handled."""

from __future__ import annotations

import gzip
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pytest_httpserver import HTTPServer

from sources.contract import TerminalError, TransientError
from sources.http.json_body import json_list
from tests.sources.conftest import HEAD, KEY, Clients, RawUpstream, make_response, serve, within

# Refusals


@pytest.mark.parametrize(
    ("status", "code", "pause"),
    [
        (400, "upstream_refused", None),
        (401, "key_refused", timedelta(hours=1)),
        (402, "payment_required", timedelta(days=1)),
        (403, "key_refused", timedelta(hours=1)),
        (404, "upstream_refused", None),
        (422, "upstream_refused", None),
        (204, "upstream_refused", None),
        (301, "upstream_refused", None),
        (451, "upstream_refused", None),
    ],
)
def test_a_refused_request_is_not_retried_and_its_error_contains_no_secret(
    upstream: HTTPServer, client: Clients, status: int, code: str, pause: timedelta | None
) -> None:
    requests = serve(upstream, make_response(status, body=f'{{"error": "{KEY} is wrong"}}', Retry_After="0"))
    with pytest.raises(TerminalError) as caught:
        client(upstream.url_for("")).get("/tickers", {"quotes": "USD"})
    assert len(requests) == 1
    words = "" if status == 204 else '; it says “{"error": "[hidden] is wrong"}”'
    assert caught.value.detail == f"example: returned {status} for GET /tickers{words}"
    assert (caught.value.code, caught.value.pause) == (code, pause)


# Retry-After


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "minimum", "maximum"),
    [
        ("53", 53, 53),
        (" 7 ", 7, 7),
        ("1", 1, 1),
        ("in an hour", 3590, 3600),
        ("21600", 21600, 21600),
        ("9" * 500, 21600, 21600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 21600, 21600),
    ],
    ids=["seconds", "spaces", "one", "date", "6 hours", "huge", "far date"],
)
def test_a_request_is_not_retried_before_the_delay_in_retry_after(
    upstream: HTTPServer, client: Clients, status: int, header: str, minimum: float, maximum: float
) -> None:
    if header == "in an hour":
        header = in_seconds(3600)
    requests = serve(upstream, make_response(status, Retry_After=header))
    with within(1), pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert len(requests) == 1
    assert caught.value.retry_after is not None
    assert minimum <= caught.value.retry_after <= maximum
    assert caught.value.code == ("rate_limited" if status == 429 else "upstream_unavailable")


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "header",
    [None, "", "0", "-5", "1.5", "soon", "9" * 5000, in_seconds(-60), "Fri, 31 Dec 99999 23:59:59 GMT"],
    ids=lambda header: ascii(header)[:20],
)
def test_a_request_without_a_usable_retry_after_is_retried(
    upstream: HTTPServer, client: Clients, header: str | None
) -> None:
    requests = serve(upstream, make_response(429, **({} if header is None else {"Retry_After": header})))
    with pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).get("/tickers")
    assert len(requests) == 3
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after is None


# Broken and oversized bodies


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "response",
    [
        HEAD + b"Content-Length: 100\r\n\r\n[1, 2]",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\n[1, 2]\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\n[1, 2]",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno size\r\n[1, 2]\r\n0\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\n[1, 2]",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n[]",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n[]",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n[]",
    ],
    ids=["half", "no last chunk", "half a chunk", "no size", "no gzip", "two lengths", "no HTTP", "headers", "header"],
)
def test_a_broken_response_is_a_transient_error(raw_upstream: RawUpstream, client: Clients, response: bytes) -> None:
    server = raw_upstream(lambda _, connection: connection.sendall(response))
    with pytest.raises(TransientError) as caught:
        client(server.url).get("/tickers")
    assert caught.value.code == "upstream_unavailable"
    assert caught.value.detail.startswith("example: GET /tickers failed: ")
    assert server.connections == 3


def test_a_truncated_gzip_body_is_a_transient_error(upstream: HTTPServer, client: Clients) -> None:
    compressed = gzip.compress(b"[" + b"1, " * 1000 + b"1]")
    for missing in (1, 8, len(compressed) // 2, len(compressed) - 1):
        serve(upstream, make_response(body=compressed[:-missing], Content_Encoding="gzip"))
        http = client(upstream.url_for(""))
        if missing <= 8:  # At most the gzip trailer is missing.
            assert len(json_list(http.get("/tickers").body)) == 1001
        else:
            with pytest.raises(TransientError):
                json_list(http.get("/tickers").body)
        upstream.clear()


def test_a_body_of_exactly_the_maximum_size_is_accepted(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(body="x" * 100_000))
    assert len(client(upstream.url_for(""), max_body=100_000).get("/tickers").body) == 100_000
    with pytest.raises(TerminalError, match="larger than 99999 bytes; raise MAX_BODY_BYTES") as caught:
        client(upstream.url_for(""), max_body=99_999).get("/tickers")
    assert (caught.value.code, len(requests)) == ("body_too_large", 2)


def test_a_body_of_exactly_the_maximum_number_of_values_is_accepted(upstream: HTTPServer, client: Clients) -> None:
    body = b'[{"a":1,"b":[]},2]'
    serve(upstream, make_response(body=body))
    assert client(upstream.url_for(""), max_values=5).get("/tickers").body == body
    detail = 'more than 4 values; request less at a time, or raise MAX_BODY_VALUES .*; it says “.{"a":1,'
    with pytest.raises(TerminalError, match=detail) as caught:
        client(upstream.url_for(""), max_values=4).get("/tickers")
    assert caught.value.code == "body_too_large"


def test_millions_of_compressed_empty_objects_are_refused_before_they_are_parsed(
    upstream: HTTPServer, client: Clients
) -> None:
    serve(upstream, make_response(body=gzip.compress(b"[" + b"{}," * 20_000_000 + b"{}]", 1), Content_Encoding="gzip"))
    tracemalloc.start()
    try:
        with pytest.raises(TerminalError, match="more than 100000 values"):
            client(upstream.url_for(""), max_body=100_000_000).get("/tickers")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # of 60 MB, with what the test server sends


@pytest.mark.parametrize("times", [1, 2])
def test_decompression_of_a_gzip_bomb_is_aborted_before_it_fills_the_memory(
    upstream: HTTPServer, client: Clients, times: int
) -> None:
    bomb = b"\0" * 100_000_000
    for _ in range(times):
        bomb = gzip.compress(bomb, 1)
    serve(upstream, make_response(body=bomb, Content_Encoding=", ".join(["gzip"] * times)))
    tracemalloc.start()
    try:
        with pytest.raises(TerminalError) as caught:
            client(upstream.url_for("")).get("/tickers")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "body_too_large"
    assert peak < 20_000_000


def test_a_response_that_contains_our_key_is_an_error(upstream: HTTPServer, client: Clients) -> None:
    upstream.expect_request("/tickers").respond_with_data(f'[{{"id": "coin", "name": "for {KEY}"}}]')
    with pytest.raises(TransientError) as raised:
        client(upstream.url_for("").rstrip("/")).get("/tickers")
    assert raised.value.code == "unexpected_body"
    assert KEY not in str(raised.value)
