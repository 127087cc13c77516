"""Test exports served by gunicorn: a partial file never looks complete, and a slow client delays no other."""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import polars as pl
import pytest
import requests
from flask import Flask
from sqlalchemy import Connection, Engine, literal, select, text
from structlog.testing import capture_logs

from app.exports.stream import FileRows, csv_file, stream_file
from tests.processes import Process, Processes, until

FORMATS = ("csv", "ndjson", "parquet")
ROW_COUNT = 60_000
"""Their text is several times larger than the buffers between server and client."""

EXPORTING = "FROM pg_stat_activity WHERE application_name = 'kasparro-export' AND datname = current_database()"


@pytest.fixture
def serve(processes: Processes) -> Callable[..., tuple[Process, int]]:
    """Return a function that starts the API in one process, and returns the process and its port."""

    def serve(**environ: str) -> tuple[Process, int]:
        web = processes.serve(WEB_WORKERS="1", **environ)
        return web, int(web.url.rpartition(":")[2])

    return serve


class SlowClient:
    """A client that reads the headers of an export, but reads the body only when the test requests it."""

    def __init__(self, port: int, format_: str, version: str = "1.1"):
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(30)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(f"GET /data?format={format_} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        self.response = http.client.HTTPResponse(self._socket)
        self.response.begin()
        assert self.response.status == 200, self.response.read()

    def close(self) -> None:
        self.response.close()
        self._socket.close()


@pytest.fixture
def slow_client() -> Iterator[Callable[..., SlowClient]]:
    clients: list[SlowClient] = []

    def connect(*arguments: Any) -> SlowClient:
        clients.append(SlowClient(*arguments))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def terminate_export(engine: Engine) -> None:
    with engine.connect() as connection:
        terminated = connection.execute(text(f"SELECT pg_terminate_backend(pid) {EXPORTING}")).all()
    assert len(terminated) == 1


def running_exports(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) {EXPORTING}")).scalar_one())


def events(web: Process, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in web.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_complete_file_is_received_in_full_and_its_connection_stays_usable(
    serve: Callable[..., Any], insert_quotes: Callable[[int], None], format_: str
) -> None:
    insert_quotes(ROW_COUNT)
    _, port = serve()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for _ in range(2):
            connection.request("GET", f"/data?format={format_}&fields=price,observed_at")
            response = connection.getresponse()
            body = response.read()
            assert response.headers["X-Row-Count"] == str(ROW_COUNT)
            is_parquet, header = format_ == "parquet", int(format_ == "csv")
            rows = pl.read_parquet(io.BytesIO(body)) if is_parquet else body.splitlines()[header:]
            assert len(rows) == ROW_COUNT


@pytest.mark.parametrize(("format_", "version"), [("csv", "1.0"), ("ndjson", "1.1"), ("parquet", "1.1")])
def test_the_client_detects_a_file_that_the_database_aborts(
    serve: Callable[..., Any],
    slow_client: Callable[..., SlowClient],
    insert_quotes: Callable[[int], None],
    engine: Engine,
    format_: str,
    version: str,
) -> None:
    insert_quotes(ROW_COUNT * (5 if format_ == "parquet" else 1))
    web, port = serve()
    client = slow_client(port, format_, version)
    terminate_export(engine)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        client.response.read()
    [aborted] = until(lambda: events(web, "export_aborted"), what="the log has export_aborted")
    assert "Postgres" in aborted["reason"]
    assert "Traceback" not in web.log.read_text()
    assert requests.get(f"http://127.0.0.1:{port}/data?limit=1", timeout=5).ok


def test_the_reason_for_a_file_that_a_bug_aborts_does_not_blame_postgres(app: Flask) -> None:
    def select_too_few(_: Connection) -> FileRows:
        return FileRows(2, select(literal("the only row")), {}, partial(csv_file, ["row"]))

    with app.test_request_context(), capture_logs() as logs:
        response = stream_file("rows.csv", "text/csv", select_too_few)
        with pytest.raises(ConnectionResetError), closing(response):
            response.get_data()
    reasons = {entry["event"]: entry.get("reason") for entry in logs}
    assert reasons == {"exception_unhandled": None, "export_aborted": "a bug raised RuntimeError"}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_the_client_detects_a_file_that_a_killed_process_aborts(
    serve: Callable[..., Any],
    slow_client: Callable[..., SlowClient],
    insert_quotes: Callable[[int], None],
    version: str,
) -> None:
    insert_quotes(ROW_COUNT)
    web, port = serve()
    client = slow_client(port, "csv", version)
    web.kill()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        client.response.read()


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_client_that_reads_nothing_is_disconnected(
    serve: Callable[..., Any],
    slow_client: Callable[..., SlowClient],
    insert_quotes: Callable[[int], None],
    engine: Engine,
    format_: str,
) -> None:
    insert_quotes(ROW_COUNT * (5 if format_ == "parquet" else 1))
    web, port = serve(EXPORT_PATIENCE="0.3", EXPORTS_AT_ONCE="1")
    client = slow_client(port, format_)
    [aborted] = until(lambda: events(web, "export_aborted"), what="the client is disconnected")
    assert aborted["reason"] == "the client disconnected or was too slow"
    until(lambda: running_exports(engine) == 0, what="its snapshot is closed")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        client.response.read()
    slow_client(port, format_)


def test_an_export_that_exceeds_its_timeout_is_aborted(
    serve: Callable[..., Any],
    slow_client: Callable[..., SlowClient],
    insert_quotes: Callable[[int], None],
    engine: Engine,
) -> None:
    insert_quotes(ROW_COUNT)
    _, port = serve(EXPORT_TIMEOUT="0.5")
    client = slow_client(port, "ndjson")
    until(lambda: running_exports(engine) == 0, what="Postgres ends the snapshot")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        client.response.read()


def test_a_client_that_disconnects_frees_its_export_slot(
    serve: Callable[..., Any],
    slow_client: Callable[..., SlowClient],
    insert_quotes: Callable[[int], None],
    engine: Engine,
) -> None:
    insert_quotes(ROW_COUNT)
    _, port = serve(EXPORTS_AT_ONCE="1")
    slow_client(port, "csv").close()
    until(lambda: running_exports(engine) == 0, what="its snapshot is closed")
    assert requests.get(f"http://127.0.0.1:{port}/data?format=csv", timeout=30).text.count("\n") == ROW_COUNT + 1


def test_slow_parquet_clients_delay_no_other_export(
    serve: Callable[..., Any], slow_client: Callable[..., SlowClient], insert_quotes: Callable[[int], None]
) -> None:
    insert_quotes(ROW_COUNT)
    _, port = serve(EXPORTS_AT_ONCE="4")
    for _ in range(3):
        slow_client(port, "parquet")
    response = requests.get(f"http://127.0.0.1:{port}/data?format=parquet", timeout=30)
    assert len(pl.read_parquet(io.BytesIO(response.content))) == ROW_COUNT


def test_slow_clients_delay_no_other_request(
    serve: Callable[..., Any], slow_client: Callable[..., SlowClient], insert_quotes: Callable[[int], None]
) -> None:
    insert_quotes(ROW_COUNT)
    _, port = serve(EXPORTS_AT_ONCE="4")
    for _ in range(4):
        slow_client(port, "csv")
    rejected = [requests.get(f"http://127.0.0.1:{port}/data?format=csv", timeout=5) for _ in range(4)]
    assert {response.status_code for response in rejected} == {503}
    assert {response.json()["code"] for response in rejected} == {"too_many_exports"}
    for path in ("/data?limit=1", "/health", "/data/latest"):
        started = time.monotonic()
        assert requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).ok, path
        assert time.monotonic() - started < 3
