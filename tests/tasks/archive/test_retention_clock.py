"""Test that retention keeps quotes and bodies that only the database's clock considers expired."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from sources.contract import Retention
from tests.stepped_clock import SteppedPostgres
from tests.tasks.archive.aged_data import DAY, MONTH, at, days, delete, load, source
from tests.tasks.conftest import Bench

YEAR = 365 * DAY


@pytest.fixture
def database_url(stepped_database_url: str) -> str:
    return stepped_database_url


@pytest.mark.parametrize("step", [DAY, YEAR], ids=str)
def test_a_clock_that_is_ahead_for_a_while_deletes_nothing_that_is_not_old(
    stepped_server: SteppedPostgres, bench: Bench, step: timedelta
) -> None:
    load(bench, source([at(31), at(29.7), at(29.6)], ago=29.5 * DAY), quotes=MONTH, bodies=MONTH)
    stepped_server.set_clock(step.total_seconds())
    with capture_logs() as logs:
        delete(bench)
    assert days(bench) == {"C0": [30, 30, 31]}
    assert [log["event"] for log in logs] == ["retention_failed"]
    stepped_server.set_clock(0)
    delete(bench)
    assert days(bench) == {"C0": [30, 30]}
    assert bench.one("SELECT count(*) FROM raw_bodies WHERE body IS NULL") == 0


@pytest.mark.parametrize("offsets", [(DAY,), (YEAR,), (DAY, timedelta())], ids=str)
def test_a_page_that_is_loaded_while_the_clock_is_ahead_loses_no_quote(
    stepped_server: SteppedPostgres, bench: Bench, offsets: tuple[timedelta, ...]
) -> None:
    """After the last step of the second case, only the service's clock is ahead."""
    history = replace(source([at(31), at(29.5), at(1)]), retention=Retention(quotes=MONTH))
    for offset in offsets:
        stepped_server.set_clock(offset.total_seconds())
        run = bench.ingest(history, full_refresh=True)
        assert run["status"] == "succeeded"
    assert days(bench) == {"C0": [1, 30]}
