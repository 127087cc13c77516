"""Stands in for the upstreams: serves their recorded answers, with the times moved to now and the prices walking.

python -m devstack.recorded_upstreams --port 8900 [--seed 1] [--folder sample_data] [--freeze]

    /coinpaprika/v1/tickers             asked with COINPAPRIKA_URL=http://127.0.0.1:8900/coinpaprika/v1
    /coingecko/api/v3/coins/markets     asked with COINGECKO_URL=http://127.0.0.1:8900/coingecko/api/v3
    /healthz                            whether it answers

Answers change every STEP seconds, and depend on nothing but the recording, the seed and the step: two servers of one
seed agree, over all pages. With --freeze time stands still, and they never change.
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
"""Seconds between two answers that differ."""

SLOW_STEP = 3600
"""The same for a coin that the upstream had not renewed for so long."""


def moment(record: Record) -> datetime | None:
    text = json.decode(record["last_updated"], type=str | None)
    return datetime.fromisoformat(text) if text else None


@dataclass
class Recording:
    """One upstream's recorded records, and what they are at any later time."""

    records: list[Record]
    walk: Callable[[Record, int, int], Record]
    seed: int
    freeze: bool = False
    newest: datetime = field(init=False)
    latest: tuple[int, list[bytes]] = field(init=False, default=(-1, []))

    @classmethod
    def read(cls, file: Path, walk: Callable[[Record, int, int], Record], seed: int, freeze: bool = False) -> Recording:
        """Raises OSError where the file cannot be read."""
        return cls(json.decode(file.read_bytes(), type=list[Record]), walk, seed, freeze)

    def __post_init__(self) -> None:
        self.newest = max(filter(None, map(moment, self.records)))

    def now(self) -> int:
        """The step that it is: seconds since 1970, a multiple of STEP."""
        seconds = self.newest.timestamp() if self.freeze else time.time()
        return int(seconds) // STEP * STEP

    def at(self, now: int) -> list[bytes]:
        """The records as JSON. Many requests fall into one step: what the last one needed is kept."""
        step, records = self.latest
        if step != now:
            records = [json.encode(self._moved(record, now)) for record in self.records]
            self.latest = (now, records)
        return records

    def _moved(self, record: Record, now: int) -> Record:
        observed = moment(record)
        age = self.newest - (observed or self.newest)
        if age >= timedelta(seconds=SLOW_STEP):
            now = now // SLOW_STEP * SLOW_STEP
        moved = self.walk(record, self.seed, now // STEP)
        if observed:
            precision = "milliseconds" if b"." in bytes(record["last_updated"]) else "seconds"
            time_now = (datetime.fromtimestamp(now, UTC) - age).isoformat(timespec=precision)
            moved["last_updated"] = Raw(json.encode(time_now.replace("+00:00", "Z")))
        return moved


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"


def refusal(status: int, detail: str) -> Answer:
    return Answer(status, json.encode({"error": detail}), {"Cache-Control": "no-cache"})


def array(records: list[bytes]) -> bytes:
    return b"[" + b",".join(records) + b"]"


def tickers(recording: Recording, query: Mapping[str, str]) -> Answer:
    if query.get("quotes", "USD").upper() != "USD":
        return refusal(400, "unsupported quotes: this recording holds USD only")
    kept = "public, max-age=60, s-maxage=60, stale-while-revalidate=10, stale-if-error=600"
    return Answer(200, array(recording.at(recording.now())), {"Cache-Control": kept})


def markets(recording: Recording, query: Mapping[str, str]) -> Answer:
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
    records = recording.at(recording.now())[(page - 1) * per_page : page * per_page]
    return Answer(200, array(records), {"Cache-Control": "max-age=30, public, must-revalidate, s-maxage=30"})


def health(_: Mapping[str, str]) -> Answer:
    return Answer(200, json.encode({"status": "ok"}), {"Cache-Control": "no-store"})


Routes = Mapping[str, Callable[[Mapping[str, str]], Answer]]


def routes(folder: Path, seed: int, freeze: bool = False) -> Routes:
    """What each path answers with. Raises OSError where a recording cannot be read."""
    coinpaprika = Recording.read(folder / "coinpaprika/tickers.json", walk_coinpaprika, seed, freeze)
    coingecko = Recording.read(folder / "coingecko/markets.json", walk_coingecko, seed, freeze)
    return {
        "/coinpaprika/v1/tickers": partial(tickers, coinpaprika),
        "/coingecko/api/v3/coins/markets": partial(markets, coingecko),
        "/healthz": health,
    }


class Replay(socketserver.ThreadingTCPServer):
    """Not http.server's own server: that one looks its host's name up."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, answers: Routes):
        self.answers = answers
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # a client that left is no error
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # ours to hand on, whatever it is


class Handler(BaseHTTPRequestHandler):
    server: Replay
    server_version, sys_version = "replay", ""
    protocol_version = "HTTP/1.1"
    timeout = 75
    # Headers and body in one segment, sent at once.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send(self._answer())

    def _answer(self) -> Answer:
        url = urlsplit(self.path)
        if url.path.endswith("/"):
            return moved_permanently("/" + url.path.strip("/") + (f"?{url.query}" if url.query else ""))
        answer = self.server.answers.get(url.path)
        return answer(dict(parse_qsl(url.query))) if answer else refusal(404, f"no such path: {url.path}")

    def _send(self, answer: Answer) -> None:
        body, headers = answer.body, dict(answer.headers)
        if answer.status == 200:
            headers["ETag"] = f'W/"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if headers.get("ETag", "none") in self.headers.get("If-None-Match", ""):
            self._write(304, headers)
            return
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=6, mtime=0), "gzip"
        self._write(answer.status, {**headers, "Content-Type": answer.content_type, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _write(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Access-Control-Allow-Origin": "*", "Vary": "Accept-Encoding, Origin"}.items():
            self.send_header(name, value)
        self.end_headers()


def moved_permanently(to: str) -> Answer:
    body = f'<a href="{html.escape(to)}">Moved Permanently</a>.\n\n'
    return Answer(301, body.encode(), {"Location": to}, "text/html; charset=utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.recorded_upstreams", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    parser.add_argument("--seed", type=int, default=1, help="which walk the prices take (default: 1)")
    parser.add_argument(
        "--folder", type=Path, default=Path("sample_data"), help="where the recordings are (default: sample_data)"
    )
    parser.add_argument("--freeze", action="store_true", help="let time stand still: every answer stays as it is")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server = Replay(given.port, routes(given.folder, given.seed, given.freeze))
    except OSError as error:
        parser.error(f"{error}; give another --port or --folder")
    with server:
        sys.stderr.write(f"replay: http://127.0.0.1:{given.port} serves the recordings in {given.folder}\n")
        server.serve_forever()


if __name__ == "__main__":
    main()
