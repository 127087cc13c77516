"""gzip: for whoever accepts it, and the same answer within."""

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
    answer = api.get(path, headers=headers, buffered=True)
    assert answer.status_code == 200
    return answer


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.8", "gzip, identity;q=0.5", "*"])
def test_an_answer_is_compressed_for_who_accepts_it(
    api: FlaskClient, many: Callable[[int], None], accepted: str
) -> None:
    many(50)
    plain, answer = get(api, "/data", None), get(api, "/data", accepted)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.data) == int(answer.headers["Content-Length"]) < len(plain.data) / 4
    body = json.loads(gzip.decompress(answer.data))
    assert body["data"] == plain.json["data"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert answer.headers["ETag"] == plain.headers["ETag"]


@pytest.mark.parametrize("accepted", [None, "", "identity", "br", "gzip;q=0", "gzip;q=0.5, identity"])
def test_who_does_not_accept_it_or_would_rather_not_gets_it_as_it_is(
    api: FlaskClient, many: Callable[[int], None], accepted: str | None
) -> None:
    many(50)
    answer = get(api, "/data", accepted)
    assert "Content-Encoding" not in answer.headers
    assert len(answer.json["data"]) == 50


@pytest.mark.parametrize("accepted", [None, "gzip"])
@pytest.mark.parametrize("path", ["/data", "/data?format=csv", "/health/live", "/openapi.json"])
def test_stores_are_told_that_it_depends_on_what_is_accepted(api: FlaskClient, path: str, accepted: str | None) -> None:
    assert "Accept-Encoding" in get(api, path, accepted).vary


def test_what_fits_into_a_packet_is_left_as_it_is(api: FlaskClient) -> None:
    assert get(api, "/health/live", "gzip").json["status"] == "ok"


def test_an_export_is_compressed_piece_by_piece(api: FlaskClient, many: Callable[[int], None]) -> None:
    many(5000)
    plain = get(api, "/data?format=csv", None)
    with api.get("/data?format=csv", headers={"Accept-Encoding": "gzip"}) as answer:
        unpacked = zlib.decompressobj(16 + zlib.MAX_WBITS)
        first = [unpacked.decompress(next(answer.response)) for _ in range(2)]
        assert b"".join(first).count(b"\n") == 1 + 1000
        rest = b"".join(map(unpacked.decompress, answer.response))
    assert b"".join(first) + rest == plain.data
    assert unpacked.eof


def test_parquet_is_compressed_within_and_not_again(api: FlaskClient, rows: Rows) -> None:
    rows.quote(rows.listing(), NOON)
    answer = get(api, "/data?format=parquet", "gzip")
    assert "Content-Encoding" not in answer.headers
    assert answer.data.startswith(b"PAR1")
