"""What an upstream allows is never exceeded, whoever asks: threads, processes, with or without Redis."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from limits import RateLimitItemPerSecond
from sqlalchemy import Engine, text

from settings import Settings
from sources.contract import Rate, Source, TransientError
from tasks import limits
from tasks.limits import spender
from tests.processes import ROOT, until
from tests.upstreams import canned

pytestmark = pytest.mark.usefixtures("broker")

MONTH = "date_trunc('month', clock_timestamp())::date"


def source(engine: Engine, per_minute: int | None = None, per_month: int | None = None, name: str = "canned") -> Source:
    """A source with a row of its own, as the first request of a run makes one."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO sources (name) VALUES (:name)"), {"name": name})
    return canned(name=name, rate=Rate(per_minute, per_month))


def budget(engine: Engine, name: str = "canned") -> tuple[int, date | None]:
    """(calls counted, in which month)."""
    with engine.connect() as connection:
        query = text("SELECT budget_used, budget_month FROM sources WHERE name = :name")
        used, month = connection.execute(query, {"name": name}).one()
    return used, month


def tried(engine: Engine, source: Source, times: int) -> list[TransientError | None]:
    """What becomes of so many calls, one after the other: None is one that is allowed."""
    outcomes: list[TransientError | None] = []
    spend = spender(engine, source)
    for _ in range(times):
        try:
            spend()
        except TransientError as error:
            outcomes.append(error)
        else:
            outcomes.append(None)
    return outcomes


def tried_by_threads(engine: Engine, source: Source, threads: int, times: int) -> list[TransientError | None]:
    with ThreadPoolExecutor(threads) as pool:
        ran = [pool.submit(tried, engine, source, times) for _ in range(threads)]
    return [outcome for each in ran for outcome in each.result()]


# The rate


def test_threads_together_get_no_more_calls_than_a_minute_has(engine: Engine) -> None:
    outcomes = tried_by_threads(engine, source(engine, per_minute=20), threads=8, times=5)
    refused = [error for error in outcomes if error]
    assert len(refused) == 40 - 20
    for error in refused:
        assert error.code == "rate_limited"
        assert error.detail == "canned: 20 calls a minute are used up"
        assert error.retry_after is not None
        assert 1 <= error.retry_after <= 60
    assert max(error.retry_after or 0 for error in refused) > 30
    assert budget(engine)[0] == 20


ANOTHER_PROCESS = """
from datetime import timedelta
from settings import get_settings
from sources.contract import Rate, Source, TransientError
from store.engine import make_engine
from tasks.limits import spender
source = Source("canned", timedelta(hours=1), None, None, None, Rate(20))
spend = spender(make_engine(get_settings().database_url, "test"), source)
allowed = 0
for _ in range(10):
    try:
        spend()
        allowed += 1
    except TransientError as error:
        assert error.code == "rate_limited"
print(allowed)
"""


def test_processes_together_get_no_more_calls_than_a_minute_has(engine: Engine, settings: Settings) -> None:
    source(engine, per_minute=20)
    environ = {**os.environ, "DATABASE_URL": settings.database_url, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", ANOTHER_PROCESS], env=environ, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert sum(int(process.communicate(timeout=30)[0]) for process in processes) == 20


def test_no_window_ever_holds_more_than_its_calls(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # The library's own shorter window in place of its minute.
    monkeypatch.setattr(limits, "RateLimitItemPerMinute", RateLimitItemPerSecond)
    spend = spender(engine, source(engine, per_minute=5))
    give_up_at = time.monotonic() + 10
    allowed: list[tuple[float, float]] = []
    while len(allowed) < 12 and time.monotonic() < give_up_at:
        before = time.monotonic()
        try:
            spend()
        except TransientError:
            continue
        allowed.append((before, time.monotonic()))
        if len(allowed) == 1:  # all the others come in a rush at the end of its window, and go on into the next
            until(lambda: time.monotonic() > allowed[0][0] + 0.8)
    assert len(allowed) == 12
    for (before, _), (_, after) in zip(allowed, allowed[5:], strict=False):
        assert after - before > 1


def test_sources_do_not_share_their_calls(engine: Engine) -> None:
    one, other = source(engine, per_minute=1, name="one"), source(engine, per_minute=1, name="other")
    assert tried(engine, one, 2)[0] is None
    assert tried(engine, other, 1) == [None]


@pytest.fixture
def no_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Redis address where nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    monkeypatch.setattr(limits, "get_settings", lambda: replace(settings, redis_url=address))
    limits._limiter.cache_clear()
    yield
    limits._limiter.cache_clear()


@pytest.mark.usefixtures("no_redis")
def test_with_redis_down_no_call_is_made_and_the_run_waits(engine: Engine) -> None:
    began = time.monotonic()
    [error] = tried(engine, source(engine, per_minute=20), 1)
    assert error is not None
    assert (error.code, error.retry_after) == ("limiter_unreachable", 15)
    assert "ConnectionError" in error.detail
    assert time.monotonic() - began < 3
    assert budget(engine)[0] == 0


@pytest.mark.usefixtures("no_redis")
def test_a_source_without_a_rate_needs_no_redis(engine: Engine) -> None:
    assert tried(engine, source(engine), 2) == [None, None]


# The budget


def test_every_call_counts_against_the_month(engine: Engine) -> None:
    limited = source(engine, per_month=3)
    outcomes = tried(engine, limited, 5)
    assert outcomes[:3] == [None, None, None]
    for error in outcomes[3:]:
        assert error is not None
        assert error.code == "budget_spent"
        assert error.detail == "canned: this month's 3 calls are used up"
        assert error.retry_after is not None
        assert 0 < error.retry_after <= 31 * 86400
    assert budget(engine)[0] == 3


def test_without_a_budget_calls_are_counted_all_the_same(engine: Engine) -> None:
    assert tried(engine, source(engine), 4) == [None] * 4
    assert budget(engine)[0] == 4


def test_threads_together_get_no_more_calls_than_the_month_has(engine: Engine) -> None:
    outcomes = tried_by_threads(engine, source(engine, per_month=10), threads=8, times=4)
    assert outcomes.count(None) == 10
    assert budget(engine)[0] == 10


@pytest.mark.parametrize("months_ago", [1, 2, 13])
def test_a_new_month_starts_afresh(engine: Engine, months_ago: int) -> None:
    limited = source(engine, per_month=2)
    with engine.begin() as connection:
        last = f"UPDATE sources SET budget_used = 2, budget_month = ({MONTH} - :gap * interval '1 month')::date"
        connection.execute(text(last), {"gap": months_ago})
        this_month: Any = connection.scalar(text(f"SELECT {MONTH}"))
    assert [error and error.code for error in tried(engine, limited, 3)] == [None, None, "budget_spent"]
    assert budget(engine) == (2, this_month)


def test_the_run_that_waits_for_its_month_waits_until_that_begins(engine: Engine) -> None:
    limited = source(engine, per_month=1)
    _, error = tried(engine, limited, 2)
    with engine.connect() as connection:
        query = text(f"SELECT clock_timestamp() + :wait * interval '1 second' - ({MONTH} + interval '1 month')")
        assert error is not None
        late: Any = connection.scalar(query, {"wait": error.retry_after})
    assert 0 <= late.total_seconds() < 5
