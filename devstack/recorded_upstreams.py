"""Serve recorded upstream responses with current times and changing prices, in place of the real upstreams.

python -m devstack.recorded_upstreams --port 8900 [--seed 1] [--folder sample_data] [--freeze]

    /coinpaprika/v1/tickers             for COINPAPRIKA_URL=http://127.0.0.1:8900/coinpaprika/v1
    /coingecko/api/v3/coins/markets     for COINGECKO_URL=http://127.0.0.1:8900/coingecko/api/v3
    /healthz                            health check

Responses change every STEP seconds. They depend only on the recording, the seed and the step, so two servers with the
same seed return the same pages. With --freeze, responses never change.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import signal
import socketserver
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from msgspec import Raw, json

from devstack.price_walk import Record, walk_coingecko, walk_coinpaprika

STEP = 10
"""Seconds between two changes of a response."""

SLOW_STEP = 3600
"""Seconds between two changes of a coin whose recorded data was at least this old."""


def updated_at(record: Record) -> datetime | None:
    """Return the time of a record's last update, or None if the record has none."""
    text = json.decode(record["last_updated"], type=str | None)
    return datetime.fromisoformat(text) if text else None


@dataclass
class Recording:
    """The recorded records of one upstream. Their times and prices can be moved to any later time."""

    records: list[Record]
    walk: Callable[[Record, int, int], Record]
    seed: int
    freeze: bool = False
    newest: datetime = field(init=False)
    latest: tuple[int, list[bytes]] = field(init=False, default=(-1, []))

    @classmethod
    def read(cls, file: Path, walk: Callable[[Record, int, int], Record], seed: int, freeze: bool = False) -> Recording:
        """Return the recording in a file. Raise OSError if the file cannot be read."""
        return cls(json.decode(file.read_bytes(), type=list[Record]), walk, seed, freeze)

    def __post_init__(self) -> None:
        self.newest = max(filter(None, map(updated_at, self.records)))

    def now(self) -> int:
        """Return the time of the current step in seconds since 1970, a multiple of STEP."""
        seconds = self.newest.timestamp() if self.freeze else time.time()
        return int(seconds) // STEP * STEP

    def at(self, now: int) -> list[bytes]:
        """Return the records of a step as JSON. Cache the latest step, since many requests share it."""
        step, records = self.latest
        if step != now:
            records = [json.encode(self._moved(record, now)) for record in self.records]
            self.latest = (now, records)
        return records

    def _moved(self, record: Record, now: int) -> Record:
        observed = updated_at(record)
        age = self.newest - (observed or self.newest)
        if age >= timedelta(seconds=SLOW_STEP):
            now = now // SLOW_STEP * SLOW_STEP
        moved = self.walk(record, self.seed, now // STEP)
        if observed:
            precision = "milliseconds" if b"." in bytes(record["last_updated"]) else "seconds"
            new_time = (datetime.fromtimestamp(now, UTC) - age).isoformat(timespec=precision)
            moved["last_updated"] = Raw(json.encode(new_time.replace("+00:00", "Z")))
        return moved


@dataclass(frozen=True)
class RecordedResponse:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"


def refusal(status: int, detail: str) -> RecordedResponse:
    return RecordedResponse(status, json.encode({"error": detail}), {"Cache-Control": "no-cache"})


def json_array(records: list[bytes]) -> bytes:
    return b"[" + b",".join(records) + b"]"


def tickers(recording: Recording, query: Mapping[str, str]) -> RecordedResponse:
    """Return CoinPaprika's list of tickers."""
    if query.get("quotes", "USD").upper() != "USD":
        return refusal(400, "unsupported quotes: this recording holds USD only")
    caching = "public, max-age=60, s-maxage=60, stale-while-revalidate=10, stale-if-error=600"
    return RecordedResponse(200, json_array(recording.at(recording.now())), {"Cache-Control": caching})


def markets(recording: Recording, query: Mapping[str, str]) -> RecordedResponse:
    """Return a page of CoinGecko's markets."""
    if not query.get("vs_currency"):
        return refusal(422, "Missing parameter vs_currency")
    if query["vs_currency"].lower() != "usd":
        return refusal(422, "invalid vs_currency: this recording holds usd only")
    try:
        page, per_page = int(query.get("page", "1")), int(query.get("per_page", "100"))
    except ValueError:
        return refusal(422, "page and per_page must be whole numbers")
    if page < 1 or not 1 <= per_page <= 250:
        return refusal(422, "page must be 1 or more, per_page from 1 to 250")
    records = recording.at(recording.now())
    caching = "max-age=30, public, must-revalidate, s-maxage=30"
    stated = {"total": str(len(records)), "per-page": str(per_page)}
    return RecordedResponse(
        200, json_array(records[(page - 1) * per_page : page * per_page]), {"Cache-Control": caching, **stated}
    )


def health(_: Mapping[str, str]) -> RecordedResponse:
    return RecordedResponse(200, json.encode({"status": "ok"}), {"Cache-Control": "no-store"})


Routes = Mapping[str, Callable[[Mapping[str, str]], RecordedResponse]]


def routes(folder: Path, seed: int, freeze: bool = False) -> Routes:
    """Return the handler of each path: a function from query to response. Raise OSError if a file cannot be read."""
    coinpaprika = Recording.read(folder / "coinpaprika/tickers.json", walk_coinpaprika, seed, freeze)
    coingecko = Recording.read(folder / "coingecko/markets.json", walk_coingecko, seed, freeze)
    return {
        "/coinpaprika/v1/tickers": partial(tickers, coinpaprika),
        "/coingecko/api/v3/coins/markets": partial(markets, coingecko),
        "/healthz": health,
    }


class RecordedUpstreams(socketserver.ThreadingTCPServer):
    """The HTTP server for the recorded responses. Unlike HTTPServer, it does not look up its host name at the start."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, paths: Routes):
        self.paths = paths
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # Clients may disconnect.
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # passed on unchanged


class Handler(BaseHTTPRequestHandler):
    server: RecordedUpstreams
    server_version, sys_version = "recorded-upstreams", ""
    protocol_version = "HTTP/1.1"
    timeout = 75
    # Send headers and body in one segment, without delay.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send(self._respond())

    def _respond(self) -> RecordedResponse:
        url = urlsplit(self.path)
        if url.path.endswith("/"):
            return moved_permanently("/" + url.path.strip("/") + (f"?{url.query}" if url.query else ""))
        respond = self.server.paths.get(url.path)
        return respond(dict(parse_qsl(url.query))) if respond else refusal(404, f"no such path: {url.path}")

    def _send(self, response: RecordedResponse) -> None:
        body, headers = response.body, dict(response.headers)
        if response.status == 200:
            headers["ETag"] = f'W/"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if headers.get("ETag", "none") in self.headers.get("If-None-Match", ""):
            self._write(304, headers)
            return
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=6, mtime=0), "gzip"
        headers |= {"Content-Type": response.content_type, "Content-Length": str(len(body))}
        self._write(response.status, headers)
        self.wfile.write(body)

    def _write(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Access-Control-Allow-Origin": "*", "Vary": "Accept-Encoding, Origin"}.items():
            self.send_header(name, value)
        self.end_headers()


def moved_permanently(location: str) -> RecordedResponse:
    body = f'<a href="{html.escape(location)}">Moved Permanently</a>.\n\n'
    return RecordedResponse(301, body.encode(), {"Location": location}, "text/html; charset=utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.recorded_upstreams", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--seed", type=int, default=1, help="seed of the price walks (default: 1)")
    parser.add_argument(
        "--folder", type=Path, default=Path("sample_data"), help="folder of the recordings (default: sample_data)"
    )
    parser.add_argument("--freeze", action="store_true", help="stop the clock, so that responses never change")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server = RecordedUpstreams(arguments.port, routes(arguments.folder, arguments.seed, arguments.freeze))
    except OSError as error:
        parser.error(f"{error}. Choose another --port or --folder.")
    with server:
        sys.stderr.write(f"http://127.0.0.1:{arguments.port} serves the recordings in {arguments.folder}\n")
        server.serve_forever()


if __name__ == "__main__":
    main()
