"""Test that the secrets of sources are found nowhere, whatever an upstream repeats, and that new ones lift a pause."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from pytest_httpserver import HTTPServer
from redis import Redis
from sqlalchemy import Engine, text
from werkzeug import Request, Response

from settings import Settings
from tasks.archive.raw_bodies import read_body
from tasks.runs.reconciler import reconcile
from tests.processes import Process, Processes, until
from tests.upstreams import item

TOKEN = "a-token-of-the-tests-0123456789"
KEY, SECRET, PASSPHRASE = "k3y/of+the=source%1", "s3cret/of+the=source%2", "pass/of+the=source%3"
OAUTH_TOKEN = "t0ken/of+the=oauth"

AUTH = {
    "query": 'QueryKey("apikey")',
    "header": 'HeaderKey("X-Key"), HeaderKey("X-Pass", "API_PASSPHRASE", prefix="Pass ")',
    "oauth": 'ClientCredentials("/oauth/token")',
    "signed_query": 'HeaderKey("X-Key"), Signature(lambda r: r.query, query="signature", timestamp_query="timestamp")',
    "signed_body": """HeaderKey("X-Key"), HeaderKey("X-Pass", "API_PASSPHRASE", signed=True), Signature(
        lambda r: r.timestamp + r.method + r.target + r.body, header="X-Sign", encoding="base64",
        timestamp_member="nonce")""",
}
SECRETS = {"query": 1, "header": 2, "oauth": 2, "signed_query": 2, "signed_body": 3}
"""The number of secrets of each source. The second one of `header` is its passphrase."""

MODULE = """
from datetime import timedelta
from sources import *

def fetch(window, http):
    number = window.cursor["next"] if window.cursor and window.cursor["run"] == window.run else 1
    while number:
        send = http.post if "{name}" == "signed_body" else http.get
        response = send("/{name}/prices", {{"page": number}})
        number = number + 1 if json_list(response.body) else None
        yield Page.of(response, {{"run": window.run, "next": number}})

source = Source(
    name="{name}", every=timedelta(days=300), fetch=fetch, parse=lambda page: json_list(page.body),
    normalize=lambda item: item, upstreams={{"keyed": Upstream("https://prices.example.com", auth=({auth},))}},
)
"""


def environ_of(name: str, key: str = KEY) -> dict[str, str]:
    secrets = {"API_KEY": key, "API_SECRET": SECRET, "API_PASSPHRASE": PASSPHRASE}
    if name == "header":
        del secrets["API_SECRET"]
    elif SECRETS[name] < 3:
        del secrets["API_PASSPHRASE"]
    if name == "query":
        del secrets["API_SECRET"]
    return {f"{name.upper()}_{secret}": value for secret, value in secrets.items()}


class EchoingUpstream:
    """An upstream that repeats every secret of a request in its errors, its redirects and its broken bodies.

    sent: the secrets, and each signature and token that a request carried.
    """

    def __init__(self, server: HTTPServer, other: HTTPServer):
        self.url, self._other = server.url_for("").rstrip("/"), other
        self.sent = {KEY, SECRET, PASSPHRASE, OAUTH_TOKEN}
        self.counts: Counter[tuple[str, int]] = Counter()
        self.accepts_all = False
        server.expect_request("/oauth/token").respond_with_json(
            {"access_token": OAUTH_TOKEN, "expires_in": 3600, "client_secret": SECRET}
        )
        for name in AUTH:
            server.expect_request(f"/{name}/prices").respond_with_handler(self.respond)

    def respond(self, request: Request) -> Response:
        name = request.path.split("/")[1]
        number = int(json.loads(request.get_data())["page"] if request.method == "POST" else request.args["page"])
        self.counts[name, number] += 1
        if self.accepts_all:
            return Response("[]", content_type="application/json")
        if number == 2:
            location = self._other.url_for(f"/{quote(KEY)}/") + f"?apikey={quote(SECRET, safe='')}"
            return Response(self.echo(request), 302, {"Location": location})
        count = self.counts[name, number]
        if count == 3:
            return Response(json.dumps([item(0)]), content_type="application/json")
        return Response(self.echo(request), {1: 500, 2: 200}.get(count, 401), content_type="text/plain")

    def echo(self, request: Request) -> str:
        """Return every secret and the request's own signature in several encodings, and the whole request."""
        values = [request.headers.get("X-Sign"), request.headers.get("X-Pass"), request.args.get("signature")]
        values += [OAUTH_TOKEN] if "oauth" in request.path else []
        self.sent |= {value for value in values if value}
        echoed = sorted({KEY, SECRET, PASSPHRASE, *filter(None, values)})
        secrets = " ".join(f"{secret} {quote(secret, safe='')} {json.dumps(secret)}" for secret in echoed)
        encoded = " ".join(b64encode(f"me:{secret}".encode()).decode() for secret in echoed)
        return f"echo-words {request.url} {secrets} {dict(request.headers)} {encoded}"


@pytest.fixture
def echoing() -> Iterator[EchoingUpstream]:
    with HTTPServer(host="127.0.0.1", threaded=True) as server, HTTPServer(host="127.0.0.1") as other:
        yield EchoingUpstream(server, other)
        assert other.log == []


def test_planted_secrets_are_found_nowhere_and_a_new_key_lifts_the_pauses(
    engine: Engine, settings: Settings, processes: Processes, broker: Redis, echoing: EchoingUpstream, tmp_path: Path
) -> None:
    for name, auth in AUTH.items():
        (tmp_path / f"{name}_module.py").write_text(MODULE.format(name=name, auth=auth))
    processes.environ |= {"PYTHONPATH": str(tmp_path), "EXTRA_SOURCES": ",".join(f"{name}_module" for name in AUTH)}
    urls = {f"{name.upper()}_URL": echoing.url for name in AUTH}
    secrets = {variable: value for name in AUTH for variable, value in environ_of(name).items()}
    worker = processes.start("worker", **urls, **secrets)
    web = processes.serve(API_TOKEN=TOKEN)
    first = run_all(engine, settings, web, "failed")
    second = run_all(engine, settings, web, "failed")
    rows = read_rows(engine, "SELECT source, error_code, error_detail FROM runs ORDER BY requested_at, source")
    assert [row.error_code for row in rows] == ["redirected"] * len(AUTH) + ["key_refused"] * len(AUTH)
    assert all("echo-words" in row.error_detail and "[hidden]" in row.error_detail for row in rows)
    check_outputs(engine, web, broker, echoing.sent, [*first, *second], [worker, web])

    worker.kill()
    echoing.accepts_all = True
    new_keys = {variable: value for name in AUTH for variable, value in environ_of(name, KEY + "-new").items()}
    worker = processes.start("worker", **urls, **new_keys)
    until(lambda: worker.log.read_text().count('"pause_lifted"') == len(AUTH), what=f"lifted; see {worker.log}")
    assert not read_rows(engine, "SELECT FROM sources WHERE paused_reason IS NOT NULL")
    run_all(engine, settings, web, "succeeded")


def run_all(engine: Engine, settings: Settings, web: Process, status: str) -> list[str]:
    """Run every source once, and return the ids of the runs."""
    runs = []
    for name in AUTH:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        response = requests.post(f"{web.url}/runs", json={"source": name}, headers=headers, timeout=10)
        assert response.status_code == 202, response.text
        runs.append(response.json()["data"][0]["id"])

    def statuses() -> list[str]:
        reconcile(engine, settings)
        return [row.status for row in read_rows(engine, f"SELECT status FROM runs WHERE id IN {tuple(runs)}")]

    until(lambda: set(statuses()) <= {"failed", "succeeded", "partial"}, within=60, what=f"{statuses()}")
    assert set(statuses()) == {status}
    return runs


def check_outputs(
    engine: Engine, web: Process, broker: Redis, secrets: set[str], runs: list[str], processes: list[Process]
) -> None:
    """Assert that no output contains a secret in any of its usual encodings."""
    outputs = {
        "API": b"".join(read_api(web, runs)),
        "database": dump(engine),
        "Redis": repr([read_key(broker, key) for key in broker.scan_iter()]).encode(),
        "command lines": b"\n".join(
            file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()
        ),
        **{str(process.log.name): process.log.read_bytes() for process in processes},
    }
    assert b"echo-words" in outputs["API"]
    assert b"echo-words" in outputs["database"]
    for place, output in outputs.items():
        for secret in secrets:
            for form in encodings(secret):
                assert form not in output, (place, secret)


def read_command_lines() -> bytes:
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # The process has ended.
            lines.append(file.read_bytes())
    assert any(b"gunicorn" in line for line in lines)
    return b"\n".join(lines)


def encodings(secret: str) -> list[bytes]:
    data = secret.encode()
    shifted = [b64encode(b"\0" * offset + data)[4:-4] for offset in range(3)]
    return [data, quote(secret).encode(), quote(secret, safe="").encode(), data.hex().encode(), *shifted]


def read_api(web: Process, runs: list[str]) -> Iterator[bytes]:
    paths = ["runs", "sources", "health", "stats", "data", "data/latest", "rejects", "anomalies", "metrics", "assets"]
    paths += [f"runs/{run}" for run in runs] + [f"sources/{name}" for name in AUTH]
    paths += [f"sources/{name}/drift" for name in AUTH] + ["openapi.json", "candidates", "decisions"]
    for path in paths:
        yield requests.get(f"{web.url}/{path}", timeout=10).content


def read_key(broker: Redis, key: str) -> Any:
    readers: dict[str, Callable[[], Any]] = {
        "string": lambda: broker.get(key),
        "list": lambda: broker.lrange(key, 0, -1),
        "hash": lambda: broker.hgetall(key),
        "set": lambda: broker.smembers(key),
        "zset": lambda: broker.zrange(key, 0, -1),
    }
    return key, readers[str(broker.type(key))]()


def dump(engine: Engine) -> bytes:
    """Return every row of every table as text, and every archived body."""
    with engine.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        rows = [connection.execute(text(f"SELECT t::text FROM {table} AS t")).scalars().all() for table in tables]
        archived = connection.execute(text("SELECT source, digest FROM raw_bodies")).all()
        bodies = [read_body(connection, body.source, bytes(body.digest)) or b"" for body in archived]
    assert len(bodies) == len(AUTH)
    return "\n".join(row for table in rows for row in table).encode() + b"\n".join(bodies)


def read_rows(engine: Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(query)))


def test_a_url_with_a_secret_is_refused_without_showing_it(processes: Processes) -> None:
    process = processes.start(
        "worker", COINGECKO_URL="https://me:pl4nted@127.0.0.1:9/", COINPAPRIKA_URL="https://host/?key=pl4nted"
    )
    until(lambda: all(name in process.log.read_text() for name in ("COINGECKO_URL", "COINPAPRIKA_URL")), within=30)
    for name in ("COINGECKO_URL", "COINPAPRIKA_URL"):
        assert f"{name}: must contain no " in process.log.read_text()
    assert "pl4nted" not in process.log.read_text()
