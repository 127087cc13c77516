"""Test that responses are compressed with gzip for clients that accept it, with the same content."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.app.rows import NOON, Rows


def get(api: FlaskClient, path: str, accepted: str | None) -> Any:
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    response = api.get(path, headers=headers, buffered=True)
    assert response.status_code == 200
    return response


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.8", "gzip, identity;q=0.5", "*"])
def test_a_response_is_compressed_for_a_client_that_accepts_gzip(
    api: FlaskClient, insert_quotes: Callable[[int], None], accepted: str
) -> None:
    insert_quotes(50)
    plain, response = get(api, "/data", None), get(api, "/data", accepted)
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(response.data) == int(response.headers["Content-Length"]) < len(plain.data) / 4
    body = json.loads(gzip.decompress(response.data))
    assert body["data"] == plain.json["data"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["ETag"] == plain.headers["ETag"]


@pytest.mark.parametrize("accepted", [None, "", "identity", "br", "gzip;q=0", "gzip;q=0.5, identity"])
def test_a_client_that_does_not_accept_or_prefer_gzip_gets_an_uncompressed_response(
    api: FlaskClient, insert_quotes: Callable[[int], None], accepted: str | None
) -> None:
    insert_quotes(50)
    response = get(api, "/data", accepted)
    assert "Content-Encoding" not in response.headers
    assert len(response.json["data"]) == 50


@pytest.mark.parametrize("accepted", [None, "gzip"])
@pytest.mark.parametrize("path", ["/data", "/data?format=csv", "/health/live", "/openapi.json"])
def test_every_response_has_vary_accept_encoding(api: FlaskClient, path: str, accepted: str | None) -> None:
    assert "Accept-Encoding" in get(api, path, accepted).vary


def test_a_response_that_fits_into_one_packet_is_not_compressed(api: FlaskClient) -> None:
    assert get(api, "/health/live", "gzip").json["status"] == "ok"


def test_an_export_is_compressed_in_pieces(api: FlaskClient, insert_quotes: Callable[[int], None]) -> None:
    insert_quotes(5000)
    plain = get(api, "/data?format=csv", None)
    with api.get("/data?format=csv", headers={"Accept-Encoding": "gzip"}) as response:
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        first = [decompressor.decompress(next(response.response)) for _ in range(2)]
        assert b"".join(first).count(b"\n") == 1 + 1000
        rest = b"".join(map(decompressor.decompress, response.response))
    assert b"".join(first) + rest == plain.data
    assert decompressor.eof


def test_parquet_is_not_compressed_again(api: FlaskClient, rows: Rows) -> None:
    rows.quote(rows.listing(), NOON)
    response = get(api, "/data?format=parquet", "gzip")
    assert "Content-Encoding" not in response.headers
    assert response.data.startswith(b"PAR1")
