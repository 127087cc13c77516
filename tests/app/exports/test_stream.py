"""Exports as gunicorn serves them: a part of a file is never taken for the whole, and slow readers hold up nobody."""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import polars as pl
import pytest
import requests
from sqlalchemy import Engine, text

from tests.processes import Process, Processes, until

FORMATS = ("csv", "ndjson", "parquet")
MANY = 60_000
"""Rows, as text several times what the buffers on the way to a reader hold."""

EXPORTING = "FROM pg_stat_activity WHERE application_name = 'kasparro-export' AND datname = current_database()"


@pytest.fixture
def serve(processes: Processes) -> Callable[..., tuple[Process, int]]:
    """Starts the API in one process; gives that, and its port."""

    def serve(**environ: str) -> tuple[Process, int]:
        web = processes.serve(WEB_WORKERS="1", **environ)
        return web, int(web.url.rpartition(":")[2])

    return serve


class Slow:
    """A reader that has read the head of an export, and takes no more until it is told to."""

    def __init__(self, port: int, form: str, version: str = "1.1"):
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(30)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(f"GET /data?format={form} HTTP/{version}\r\nHost: x\r\n\r\n".encode())
        self.answer = http.client.HTTPResponse(self._socket)
        self.answer.begin()
        assert self.answer.status == 200, self.answer.read()

    def close(self) -> None:
        self.answer.close()
        self._socket.close()


@pytest.fixture
def slow() -> Iterator[Callable[..., Slow]]:
    readers: list[Slow] = []

    def begin(*arguments: Any) -> Slow:
        readers.append(Slow(*arguments))
        return readers[-1]

    yield begin
    for reader in readers:
        reader.close()


def end_exports(engine: Engine) -> None:
    with engine.connect() as connection:
        ended = connection.execute(text(f"SELECT pg_terminate_backend(pid) {EXPORTING}")).all()
    assert len(ended) == 1


def exporting(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) {EXPORTING}")).scalar_one())


def events(web: Process, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in web.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@pytest.mark.parametrize("form", FORMATS)
def test_a_whole_file_comes_whole_and_the_connection_serves_on(
    serve: Callable[..., Any], many: Callable[[int], None], form: str
) -> None:
    many(MANY)
    _, port = serve()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        for _ in range(2):
            connection.request("GET", f"/data?format={form}&fields=price,observed_at")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.headers["X-Row-Count"] == str(MANY)
            assert len(pl.read_parquet(io.BytesIO(body)) if form == "parquet" else body.splitlines()[1:]) == MANY


@pytest.mark.parametrize(("form", "version"), [("csv", "1.0"), ("ndjson", "1.1"), ("parquet", "1.1")])
def test_a_file_that_the_database_breaks_off_is_seen_to_be_broken(
    serve: Callable[..., Any],
    slow: Callable[..., Slow],
    many: Callable[[int], None],
    engine: Engine,
    form: str,
    version: str,
) -> None:
    many(MANY * (5 if form == "parquet" else 1))
    web, port = serve()
    reader = slow(port, form, version)
    end_exports(engine)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        reader.answer.read()
    [broken] = until(lambda: events(web, "export_aborted"), what="the log says so")
    assert "Postgres" in broken["reason"]
    assert "Traceback" not in web.log.read_text()
    assert requests.get(f"http://127.0.0.1:{port}/data?limit=1", timeout=5).ok


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_file_that_the_end_of_the_process_breaks_off_is_seen_to_be_broken(
    serve: Callable[..., Any], slow: Callable[..., Slow], many: Callable[[int], None], version: str
) -> None:
    many(MANY)
    web, port = serve()
    reader = slow(port, "csv", version)
    web.kill()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        reader.answer.read()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_reader_that_takes_nothing_is_cut_off(
    serve: Callable[..., Any], slow: Callable[..., Slow], many: Callable[[int], None], engine: Engine, form: str
) -> None:
    many(MANY * (5 if form == "parquet" else 1))
    web, port = serve(EXPORT_PATIENCE="0.3", EXPORTS_AT_ONCE="1")
    reader = slow(port, form)
    [broken] = until(lambda: events(web, "export_aborted"), what="it is cut off")
    assert broken["reason"] == "the reader left, or was too slow"
    until(lambda: exporting(engine) == 0, what="its snapshot is let go")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        reader.answer.read()
    slow(port, form)


def test_a_file_that_takes_too_long_is_broken_off(
    serve: Callable[..., Any], slow: Callable[..., Slow], many: Callable[[int], None], engine: Engine
) -> None:
    many(MANY)
    _, port = serve(EXPORT_TIMEOUT="0.5")
    reader = slow(port, "ndjson")
    until(lambda: exporting(engine) == 0, what="Postgres ends the snapshot")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        reader.answer.read()


def test_a_reader_that_leaves_gives_its_place_to_the_next(
    serve: Callable[..., Any], slow: Callable[..., Slow], many: Callable[[int], None], engine: Engine
) -> None:
    many(MANY)
    _, port = serve(EXPORTS_AT_ONCE="1")
    slow(port, "csv").close()
    until(lambda: exporting(engine) == 0, what="its snapshot is let go")
    assert requests.get(f"http://127.0.0.1:{port}/data?format=csv", timeout=30).text.count("\n") == MANY + 1


def test_slow_readers_of_parquet_hold_up_no_other_export(
    serve: Callable[..., Any], slow: Callable[..., Slow], many: Callable[[int], None]
) -> None:
    many(MANY)
    _, port = serve(EXPORTS_AT_ONCE="4")
    for _ in range(3):
        slow(port, "parquet")
    answer = requests.get(f"http://127.0.0.1:{port}/data?format=parquet", timeout=30)
    assert len(pl.read_parquet(io.BytesIO(answer.content))) == MANY


def test_slow_readers_hold_up_nobody(
    serve: Callable[..., Any], slow: Callable[..., Slow], many: Callable[[int], None]
) -> None:
    many(MANY)
    _, port = serve(EXPORTS_AT_ONCE="4")
    for _ in range(4):
        slow(port, "csv")
    refused = [requests.get(f"http://127.0.0.1:{port}/data?format=csv", timeout=5) for _ in range(4)]
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.json()["code"] for answer in refused} == {"too_many_exports"}
    for path in ("/data?limit=1", "/health", "/data/latest"):
        began = time.monotonic()
        requests.get(f"http://127.0.0.1:{port}{path}", timeout=5)
        assert time.monotonic() - began < 3
