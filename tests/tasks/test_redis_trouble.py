"""Test that the service does not block during an outage of Redis, and continues afterwards."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic

import pytest
import structlog
from flask.testing import FlaskClient
from kombu import Connection, Queue
from pytest_httpserver import HTTPServer
from redis import Redis
from sqlalchemy import Engine, text

from settings import Settings
from tasks import control
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_runs
from tasks.runtime.celery_consumer import settle_or_reconnect
from tests.app.conftest import TOKEN, serve
from tests.processes import Process, until
from tests.proxy import Proxy
from tests.upstreams import Gate, Markets, coins

REFUSALS = {
    "full": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "without its replicas": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    "a replica itself": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
}


@contextmanager
def frozen(broker: Redis) -> Iterator[None]:
    server: int = broker.info("server")["process_id"]
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


@contextmanager
def refusing(broker: Redis, cause: str) -> Iterator[None]:
    start, end = REFUSALS[cause]
    _execute(broker, start)
    try:
        yield
    finally:
        _execute(broker, end)


def _execute(broker: Redis, command: str) -> None:
    broker.execute_command(*command.split())  # type: ignore[no-untyped-call]


@pytest.fixture
def api(settings: Settings, broker: Redis) -> Iterator[FlaskClient]:
    for app in serve(replace(settings, api_token=TOKEN)):
        yield app.test_client()


@pytest.fixture
def markets() -> Iterator[Markets]:
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield Markets(server, coins(270))


def request_run(engine: Engine) -> uuid.UUID:
    return request_runs(engine, [RunRequest("coingecko")], requested_by="test")[0].run


def status_of(engine: Engine, run: uuid.UUID) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run}))


def wait_for_success(engine: Engine, settings: Settings, run: uuid.UUID) -> None:
    """Run the reconciler until the run has succeeded."""

    def succeeded() -> bool:
        reconcile(engine, settings)
        return status_of(engine, run) == "succeeded"

    until(succeeded, what=f"run {run} succeeded; it is {status_of(engine, run)}")


def publish_count(engine: Engine, run: uuid.UUID) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT publish_count FROM runs WHERE id = :run"), {"run": run}) or 0)


def test_the_api_responds_within_three_seconds_while_redis_is_frozen(
    api: FlaskClient, engine: Engine, settings: Settings, broker: Redis
) -> None:
    with frozen(broker):
        start = monotonic()
        response = api.post("/runs", json={"all": True}, headers={"Authorization": f"Bearer {TOKEN}"})
        assert monotonic() - start < 3
        assert response.status_code == 202, response.json
        health = api.get("/health").json
        assert health is not None
        assert health["checks"]["broker"]["status"] == "down"
        assert health["api_latency_seconds"] < 3000
        assert response.json is not None
        runs = [uuid.UUID(run["id"]) for run in response.json["data"]]
        assert {publish_count(engine, run) for run in runs} == {0}
    reconcile(engine, settings)
    assert {publish_count(engine, run) for run in runs} == {1}


@pytest.mark.parametrize("cause", REFUSALS)
def test_a_run_requested_while_redis_refuses_writes_is_published_later(
    engine: Engine, settings: Settings, broker: Redis, cause: str
) -> None:
    with refusing(broker, cause):
        run = request_run(engine)
        reconcile(engine, settings)
        assert (status_of(engine, run), publish_count(engine, run)) == ("queued", 0)
    reconcile(engine, settings)
    assert (publish_count(engine, run), broker.llen("ingest")) == (1, 1)


@pytest.mark.parametrize("cause", REFUSALS)
def test_a_redis_that_responds_but_refuses_writes_is_reported_as_down(
    api: FlaskClient, broker: Redis, cause: str
) -> None:
    with refusing(broker, cause):
        health = api.get("/health").json
        assert health is not None
        assert health["checks"]["broker"]["status"] == "down"


def test_a_worker_that_loses_redis_during_a_slice_finishes_it_and_takes_the_next_run(
    engine: Engine, settings: Settings, start: Callable[..., Process], markets: Markets
) -> None:
    gate = Gate()
    markets.before = lambda page: gate.pass_through() if page == 2 else None
    with Proxy(os.environ["REDIS_URL"]) as proxy:
        run = request_run(engine)
        worker = start("worker", REDIS_URL=proxy.url, COINGECKO_URL=markets.url)
        assert gate.reached.wait(20)
        proxy.refuse()
        until(lambda: "Trying again in" in worker.log.read_text())
        proxy.heal()
        until(lambda: worker.log.read_text().count("Connected to") == 2)
        gate.open.set()
        wait_for_success(engine, settings, run)
        wait_for_success(engine, settings, request_run(engine))


def test_a_worker_continues_after_redis_refused_writes(
    engine: Engine, settings: Settings, start: Callable[..., Process], markets: Markets, broker: Redis
) -> None:
    worker = start("worker", COINGECKO_URL=markets.url)
    until(lambda: " ready." in worker.log.read_text())
    with refusing(broker, "without its replicas"):
        until(lambda: "Not enough good replicas" in worker.log.read_text())
    wait_for_success(engine, settings, request_run(engine))


def test_the_number_of_queued_canaries_is_limited(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_QUEUED_MESSAGES", 2)
    for _ in range(4):
        control.send_canary()
    assert broker.llen("ingest") == 2


def test_a_message_that_cannot_be_acknowledged_makes_the_worker_reconnect(broker: Redis) -> None:
    """Celery alone would count the message as unfinished forever. It would finally stop consuming messages."""
    log = structlog.get_logger()
    with Connection(os.environ["REDIS_URL"], transport_options={"socket_timeout": 0.2}) as connection:
        queue = Queue("test")(connection.default_channel)
        connection.Producer().publish("{}", routing_key="test", declare=[queue])
        message = queue.get()
        with frozen(broker), pytest.raises(ConnectionError):
            settle_or_reconnect(message.ack_log_error, log, connection.connection_errors)
