"""Redis that freezes, refuses to write, or is cut off: nobody waits long for it, and nobody gives up on it."""

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
def refusing(broker: Redis, why: str) -> Iterator[None]:
    refuse, comply = REFUSALS[why]
    _tell(broker, refuse)
    try:
        yield
    finally:
        _tell(broker, comply)


def _tell(broker: Redis, command: str) -> None:
    broker.execute_command(*command.split())  # type: ignore[no-untyped-call]


@pytest.fixture
def api(settings: Settings, broker: Redis) -> Iterator[FlaskClient]:
    for app in serve(replace(settings, api_token=TOKEN)):
        yield app.test_client()


@pytest.fixture
def markets() -> Iterator[Markets]:
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield Markets(server, coins(270))


def ask(engine: Engine) -> uuid.UUID:
    return request_runs(engine, [RunRequest("coingecko")], requested_by="test")[0].run


def status_of(engine: Engine, run: uuid.UUID) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run}))


def until_succeeded(engine: Engine, settings: Settings, run: uuid.UUID) -> None:
    """The reconciler looks after it meanwhile."""

    def succeeded() -> bool:
        reconcile(engine, settings)
        return status_of(engine, run) == "succeeded"

    until(succeeded, what=f"run {run} succeeded; it is {status_of(engine, run)}")


def published(engine: Engine, run: uuid.UUID) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT publish_count FROM runs WHERE id = :run"), {"run": run}) or 0)


def test_who_asks_a_service_whose_redis_is_frozen_is_answered_within_three_seconds(
    api: FlaskClient, engine: Engine, settings: Settings, broker: Redis
) -> None:
    with frozen(broker):
        began = monotonic()
        asked = api.post("/runs", json={"all": True}, headers={"Authorization": f"Bearer {TOKEN}"})
        assert monotonic() - began < 3
        assert asked.status_code == 202, asked.json
        health = api.get("/health").json
        assert health is not None
        assert health["checks"]["broker"]["status"] == "down"
        assert health["api_latency_seconds"] < 3000
        assert asked.json is not None
        runs = [uuid.UUID(run["id"]) for run in asked.json["data"]]
        assert {published(engine, run) for run in runs} == {0}
    reconcile(engine, settings)
    assert {published(engine, run) for run in runs} == {1}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_run_asked_for_while_redis_refuses_to_write_is_published_once_it_does(
    engine: Engine, settings: Settings, broker: Redis, why: str
) -> None:
    with refusing(broker, why):
        run = ask(engine)
        reconcile(engine, settings)
        assert (status_of(engine, run), published(engine, run)) == ("queued", 0)
    reconcile(engine, settings)
    assert (published(engine, run), broker.llen("ingest")) == (1, 1)


@pytest.mark.parametrize("why", REFUSALS)
def test_a_redis_that_answers_but_refuses_to_write_is_no_healthy_broker(
    api: FlaskClient, broker: Redis, why: str
) -> None:
    with refusing(broker, why):
        health = api.get("/health").json
        assert health is not None
        assert health["checks"]["broker"]["status"] == "down"


def test_a_worker_cut_off_in_the_middle_of_a_slice_ends_it_and_takes_the_next_run(
    engine: Engine, settings: Settings, start: Callable[..., Process], markets: Markets
) -> None:
    gate = Gate()
    markets.before = lambda page: gate.pass_through() if page == 2 else None
    with Proxy(os.environ["REDIS_URL"]) as proxy:
        run = ask(engine)
        worker = start("worker", REDIS_URL=proxy.url, COINGECKO_URL=markets.url)
        assert gate.reached.wait(20)
        proxy.refuse()
        until(lambda: "Trying again in" in worker.log.read_text())
        proxy.heal()
        until(lambda: worker.log.read_text().count("Connected to") == 2)
        gate.open.set()
        until_succeeded(engine, settings, run)
        until_succeeded(engine, settings, ask(engine))


def test_a_worker_outlives_a_redis_that_refuses_to_write(
    engine: Engine, settings: Settings, start: Callable[..., Process], markets: Markets, broker: Redis
) -> None:
    worker = start("worker", COINGECKO_URL=markets.url)
    until(lambda: " ready." in worker.log.read_text())
    with refusing(broker, "without its replicas"):
        until(lambda: "Not enough good replicas" in worker.log.read_text())
    until_succeeded(engine, settings, ask(engine))


def test_canaries_do_not_pile_up_where_nobody_consumes(broker: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_WAITING", 2)
    for _ in range(4):
        control.send_canary()
    assert broker.llen("ingest") == 2


def test_a_message_that_cannot_be_acknowledged_costs_its_connection_and_no_slot(broker: Redis) -> None:
    """Celery would go on, with the message in hand for ever; one more for each slot, and nothing is consumed."""
    log = structlog.get_logger()
    with Connection(os.environ["REDIS_URL"], transport_options={"socket_timeout": 0.2}) as connection:
        queue = Queue("test")(connection.default_channel)
        connection.Producer().publish("{}", routing_key="test", declare=[queue])
        message = queue.get()
        with frozen(broker), pytest.raises(ConnectionError):
            settle_or_reconnect(message.ack_log_error, log, connection.connection_errors)
