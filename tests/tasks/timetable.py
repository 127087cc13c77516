"""Run beat's checks one by one, for hourly sources and a clock that the test sets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

import pytest

from sources.contract import CatchUp, Source
from sources.registry import SOURCES
from tasks.schedule import request_due_runs
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


@dataclass
class Timetable:
    """Sources that run every hour, and the clock that beat reads."""

    bench: Bench
    now: datetime = MIDNIGHT + SECOND

    @classmethod
    def empty(cls, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Remove all sources from the registry until the end of the test."""
        for name in reversed(list(SOURCES)):  # in reverse, so that they are restored in their order
            monkeypatch.delitem(SOURCES, name)  # type: ignore[arg-type]  # a dict, typed as a Mapping
        return cls(bench)

    def add(self, catch_up: CatchUp, name: str = "canned") -> Source:
        """Register an hourly source with this policy."""
        source = replace(canned([item()], name=name), catch_up=catch_up)
        self.bench.register(source)
        return source

    def check(self, at: str | datetime | None = None) -> float:
        """Run one check of beat. Return the seconds until its next. at: a time of day means 1 January 2026, UTC."""
        if at:
            self.now = datetime.fromisoformat(f"2026-01-01T{at}Z") if isinstance(at, str) else at
        return request_due_runs(self.bench.engine, clock=lambda _: self.now)

    def finish(self) -> None:
        """End all unfinished runs."""
        self.bench.rows(
            "UPDATE runs SET status = 'succeeded', finished_at = clock_timestamp() WHERE finished_at IS NULL"
        )

    def catch_up(self) -> None:
        """Run more checks than there are missed slots, and end each requested run."""
        for _ in range(8):
            self.check()
            self.finish()

    def slots(self, name: str = "canned") -> list[str]:
        """The slots that have a run (HH:MM), in the order of the requests."""
        rows = self.bench.rows(
            "SELECT scheduled_for FROM runs WHERE source = :name AND scheduled_for IS NOT NULL ORDER BY requested_at",
            name=name,
        )
        assert all(row["scheduled_for"].utcoffset() == timedelta(0) for row in rows)
        return [f"{row['scheduled_for']:%H:%M}" for row in rows]
