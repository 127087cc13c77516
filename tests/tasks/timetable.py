"""Run single checks of beat for hourly sources, with a clock that the test sets."""

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
        for name in reversed(list(SOURCES)):  # In reverse, so that their order is restored.
            monkeypatch.delitem(SOURCES, name)  # type: ignore[arg-type]  # a dict, typed as a Mapping
        return cls(bench)

    def add(self, catch_up: CatchUp, name: str = "canned") -> Source:
        """Register and return an hourly source with this policy for missed slots."""
        source = replace(canned([item()], name=name), catch_up=catch_up)
        self.bench.register(source)
        return source

    def check(self, at: str | datetime | None = None) -> float:
        """Run one check at this time, or time of day on 1 January 2026, UTC. Return the seconds until the next."""
        if at:
            self.now = datetime.fromisoformat(f"2026-01-01T{at}Z") if isinstance(at, str) else at
        return request_due_runs(self.bench.engine, clock=lambda _: self.now)

    def finish(self) -> None:
        """End all unfinished runs."""
        self.bench.rows(
            "UPDATE runs SET status = 'succeeded', finished_at = clock_timestamp() WHERE finished_at IS NULL"
        )

    def catch_up(self) -> None:
        """Run enough checks for all missed slots, and end each requested run."""
        for _ in range(8):
            self.check()
            self.finish()

    def slots(self, name: str = "canned") -> list[str]:
        """Return the slots with a run (HH:MM), in the order of their requests."""
        rows = self.bench.rows(
            "SELECT scheduled_for FROM runs WHERE source = :name AND scheduled_for IS NOT NULL ORDER BY requested_at",
            name=name,
        )
        assert all(row["scheduled_for"].utcoffset() == timedelta(0) for row in rows)
        return [f"{row['scheduled_for']:%H:%M}" for row in rows]
