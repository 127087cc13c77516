"""Hourly sources, and a clock that the test sets: what beat does, look by look."""

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
    """Sources that run each hour, and their clock."""

    bench: Bench
    now: datetime = MIDNIGHT + SECOND

    @classmethod
    def alone(cls, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Self:
        """With no source but those that the test adds."""
        for name in reversed(list(SOURCES)):  # so that they are put back in order
            monkeypatch.delitem(SOURCES, name)  # type: ignore[arg-type]  # a dict, to everyone a Mapping
        return cls(bench)

    def add(self, catch_up: CatchUp, name: str = "canned") -> Source:
        source = replace(canned([item()], name=name), catch_up=catch_up)
        self.bench.register(source)
        return source

    def look(self, at: str | datetime | None = None) -> float:
        """What beat does now and then; a time without a date is of the 1st of January."""
        if at:
            self.now = datetime.fromisoformat(f"2026-01-01T{at}Z") if isinstance(at, str) else at
        return request_due_runs(self.bench.engine, clock=lambda _: self.now)

    def finish(self) -> None:
        """End the runs there are."""
        self.bench.rows(
            "UPDATE runs SET status = 'succeeded', finished_at = clock_timestamp() WHERE finished_at IS NULL"
        )

    def catch_up(self) -> None:
        """Look, and end what was asked for, more often than there are slots missed."""
        for _ in range(8):
            self.look()
            self.finish()

    def slots(self, name: str = "canned") -> list[str]:
        """The slots that got a run, in the order in which they did."""
        rows = self.bench.rows(
            "SELECT scheduled_for FROM runs WHERE source = :name AND scheduled_for IS NOT NULL ORDER BY requested_at",
            name=name,
        )
        assert all(row["scheduled_for"].utcoffset() == timedelta(0) for row in rows)
        return [f"{row['scheduled_for']:%H:%M}" for row in rows]
