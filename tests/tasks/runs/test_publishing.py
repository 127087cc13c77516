"""Test that messages contain the run's id, that publications are counted, and that Redis errors are only logged."""

from __future__ import annotations

import json
import uuid
from typing import Any

from redis import Redis
from structlog.testing import capture_logs

from tasks.runs.claims import Claim
from tasks.runs.publishing import call_assistants, publish
from tasks.runs.requests import RunRequest, request_runs
from tests.tasks.conftest import Bench


def queued(broker: Redis) -> list[Any]:
    """Return the headers of the messages in the ingest queue, newest first."""
    return [json.loads(message)["headers"] for message in broker.lrange("ingest", 0, -1)]


def request_two(bench: Bench) -> list[uuid.UUID]:
    """Request two runs one after the other. Return their ids."""
    requests = [[RunRequest(name)] for name in ("coinpaprika", "coingecko")]
    return [request_runs(bench.engine, request, requested_by="a")[0].run for request in requests]


def test_runs_are_published_oldest_first_with_their_ids(bench: Bench, broker: Redis) -> None:
    runs = request_two(bench)
    broker.flushall()
    publish(bench.engine, reversed(runs))
    newest, oldest = queued(broker)
    assert [oldest["id"], newest["id"]] == [str(run) for run in runs]
    assert (newest["task"], newest["shadow"]) == ("kasparro.ingest", "ingest coingecko")


def test_publications_of_a_run_are_counted_until_a_worker_claims_it(bench: Bench, broker: Redis) -> None:
    first, second = request_two(bench)
    bench.rows("UPDATE runs SET status = 'running' WHERE id = :run", run=second)
    publish(bench.engine, [first, second])
    assert [bench.run(run)["publish_count"] for run in (first, second)] == [2, 1]


def test_publishing_stops_at_the_first_message_that_redis_refuses(bench: Bench, broker: Redis) -> None:
    runs = request_two(bench)
    broker.config_set("maxmemory", 1)
    try:
        with capture_logs() as events:
            publish(bench.engine, runs)
    finally:
        broker.config_set("maxmemory", 0)
    assert [(event["event"], event["run"]) for event in events] == [("publish_failed", str(runs[0]))]
    assert [bench.run(run)["publish_count"] for run in runs] == [1, 1]


def test_messages_to_assistants_contain_the_claim_of_the_slice(
    bench: Bench, broker: Redis, claims: tuple[Claim, Claim]
) -> None:
    claim, _ = claims
    broker.flushall()
    call_assistants(claim, 2)
    messages = queued(broker)
    assert [(message["task"], message["shadow"]) for message in messages] == [("kasparro.assist", "assist canned")] * 2
    assert {message["argsrepr"] for message in messages} == {repr([str(claim.run), claim.number])}
