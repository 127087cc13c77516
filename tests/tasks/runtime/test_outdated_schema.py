"""Test that the state of the schema is logged without repetition."""

from __future__ import annotations

from structlog.testing import capture_logs

from store.schema import HEAD
from tasks.runtime.outdated_schema import LOG_INTERVAL, SchemaLog


class Clock:
    """A monotonic clock that the test sets."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_schema_that_is_behind_is_logged_once_a_minute() -> None:
    clock = Clock()
    log = SchemaLog(clock)
    with capture_logs() as events:
        for _ in range(int(2 * LOG_INTERVAL)):
            log.revision("0001")
            clock.seconds += 1
    assert [event["event"] for event in events] == ["schema_behind"] * 2
    assert "Run `alembic upgrade head`" in events[0]["reason"]


def test_a_newer_schema_is_logged_once() -> None:
    clock = Clock()
    log = SchemaLog(clock)
    with capture_logs() as events:
        for _ in range(10):
            log.revision("9999")
            clock.seconds += LOG_INTERVAL
    assert [(event["event"], event["revision"]) for event in events] == [("schema_newer", "9999")]


def test_the_schema_of_this_version_is_not_logged() -> None:
    with capture_logs() as events:
        SchemaLog().revision(HEAD)
        assert not SchemaLog().error(RuntimeError())
    assert events == []
