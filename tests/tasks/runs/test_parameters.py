"""Test that parameters of replays and backfills are restored from JSON, and how backfills are divided into spans."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from uuid import UUID

import pytest

from sources.contract import EPOCH
from tasks.runs.parameters import BackfillParameters, ReplayParameters

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    "parameters",
    [
        BackfillParameters(("bitcoin",), NOON),
        BackfillParameters(("bitcoin", "ether"), NOON, NOON + DAY, existing="repeat"),
        BackfillParameters(("bitcoin",), NOON.astimezone(timezone(timedelta(hours=2)))),
    ],
)
def test_the_parameters_of_a_backfill_are_restored_from_json(parameters: BackfillParameters) -> None:
    assert BackfillParameters.of(json.loads(json.dumps(parameters.parameters))) == parameters


def test_a_replay_stores_only_the_parameters_that_were_set() -> None:
    run = UUID("a19acd52-b185-4358-9bfa-6b49f1232861")
    assert ReplayParameters().parameters == {}
    written = ReplayParameters(rejected=True, code="in_future", run=run, fetched_from=NOON).parameters
    assert written == {
        "rejected": True,
        "code": "in_future",
        "run": str(run),
        "fetched_from": "2026-01-31T12:00:00+00:00",
    }
    assert ReplayParameters.of(written).parameters == written


def test_spans_end_at_multiples_of_their_length_and_are_ordered_newest_first() -> None:
    length = 10 * DAY
    spans = BackfillParameters(("bitcoin",), NOON - 25 * DAY, NOON - DAY).spans(length, NOON)
    assert (spans[0][1], spans[-1][0]) == (NOON - DAY, NOON - 25 * DAY)
    for later, earlier in pairwise(spans):
        assert later[0] == earlier[1]
        assert (later[0] - EPOCH) % length == timedelta(0)
    assert all(until - since <= length for since, until in spans)


@pytest.mark.parametrize("observed_to", [None, NOON + 99 * DAY])
def test_the_last_span_ends_with_the_current_day(observed_to: datetime | None) -> None:
    parameters = BackfillParameters(("bitcoin",), NOON - DAY, observed_to)
    spans = parameters.spans(90 * DAY, NOON)
    assert spans[0][1] == datetime(2026, 2, 1, tzinfo=UTC)
    assert parameters.spans(90 * DAY, NOON + timedelta(hours=11)) == spans


def test_a_period_that_has_not_begun_has_no_spans() -> None:
    assert BackfillParameters(("bitcoin",), NOON + 2 * DAY).spans(90 * DAY, NOON) == []
