"""Test that invalid messages in the queue stop neither a worker nor a run."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

from pytest_httpserver import HTTPServer
from redis import Redis
from sqlalchemy import Engine, text

from tasks.runs.requests import RunRequest, request_runs
from tests.processes import Process, until
from tests.upstreams import Markets, coins

WELL_FORMED = [[str(uuid.uuid4())], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def envelope(body: Any, **changes: Any) -> str:
    """Return a message in Celery's format with this body and these changed fields."""
    encoded = body if isinstance(body, str) else base64.b64encode(json.dumps(body).encode()).decode()
    message: dict[str, Any] = {
        "body": encoded,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "kasparro.ingest", "id": str(uuid.uuid4()), "lang": "py", "argsrepr": "", "kwargsrepr": ""},
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "ingest"},
            "delivery_mode": 2,
            "delivery_tag": str(uuid.uuid4()),
            "priority": 0,
        },
    }
    return json.dumps(message | changes)


INVALID: dict[str, str | bytes] = {
    "a body that is not a call": envelope({"a": 1}),
    "a body that is not base64": envelope("@@@"),
    "an unknown task": envelope(WELL_FORMED, headers={"task": "kasparro.gone", "id": "1"}),
    "an unknown run": envelope(WELL_FORMED),
    "no headers": envelope(WELL_FORMED, headers=None),
    "not JSON": "garbage{{{",
    "not a message": "[1, 2]",
    "nothing": "null",
    "not text": b"\xff\xfe\x00",
}


def test_a_worker_discards_invalid_messages_and_continues(
    engine: Engine,
    broker: Redis,
    start: Callable[..., Process],
    httpserver: HTTPServer,
) -> None:
    markets = Markets(httpserver, coins(20))
    broker.rpush("ingest", *INVALID.values())
    worker = start("worker", COINGECKO_URL=markets.url)
    until(lambda: broker.llen("ingest") == 0 and not broker.exists("unacked"), what="the messages were taken")
    run = request_runs(engine, [RunRequest("coingecko")], requested_by="test")[0].run

    def has_succeeded() -> bool:
        with engine.connect() as connection:
            return connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run}) == "succeeded"

    until(has_succeeded, within=30)
    assert worker.is_running
