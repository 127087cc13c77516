"""Verify that a full refresh has seen every record of its source's files at one moment. Otherwise, it deletes nothing.

A quote may be retracted only if no record yields it. If that is in doubt, the run ends as `refresh_incomplete`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from settings import Settings
from sources.contract import Cursor, Response, Source, TerminalError, Window
from tasks.runs.claims import Claim
from tasks.runs.partitions import list_remaining_partitions

HOLD_INTERVAL = 2.0
"""Seconds between two signs of life while files are compared with their checkpoints."""

_NO_QUOTES = "SELECT coalesce(sum(fetched - rejected), 0) = 0 FROM pages WHERE run = :run"

_EMPTY_PARTITION = """
    SELECT partition FROM checkpoints AS c
     WHERE source = :source AND done_by = :run
       AND NOT EXISTS (SELECT FROM pages WHERE run = :run AND pages.partition = c.partition)
     ORDER BY partition LIMIT 1
"""

_OLD_WORKER = "SELECT partition FROM pages WHERE run = :run AND unidentified IS NULL ORDER BY partition LIMIT 1"

_UNIDENTIFIED = """
    SELECT format('%s (%s in the run)', min(partition), sum(unidentified)) FROM pages
     WHERE run = :run AND unidentified > 0 HAVING count(*) > 0
"""

# Sections of a file that was read once follow each other.
_READ_AGAIN = """
    SELECT partition FROM (
        SELECT partition, CAST(request->>'offset' AS bigint) AS start, CAST(request->>'length' AS bigint) AS length,
               lag(CAST(request->>'offset' AS bigint)) OVER (PARTITION BY partition ORDER BY seq) AS before
          FROM pages
         WHERE run = :run AND jsonb_typeof(request->'offset') = 'number' AND jsonb_typeof(request->'length') = 'number'
        ) AS sections
     WHERE start < before OR start = before AND length > 0 ORDER BY partition LIMIT 1
"""

_REASONS: Mapping[str, str] = {
    _OLD_WORKER: "{} was read by a worker of an earlier version; upgrade all workers",
    _EMPTY_PARTITION: "{} is empty, and may be about to be written",
    _READ_AGAIN: "{} changed while it was read",
    _UNIDENTIFIED: (
        "the listing or the time of a record is unknown in {}: it was rejected, or waits because it may be cut; see "
        "`/runs/<id>/rejects` and `waiting_records`"
    ),
}
"""The reason by query. A query returns the partition that the reason names, or no row."""


def check_pages(connection: Connection, source: Source, claim: Claim) -> None:
    """Raise TerminalError if a page of the run leaves a record of the source unknown."""
    values = {"source": source.name, "run": claim.run}
    if connection.scalar(text(_NO_QUOTES), values):
        raise incomplete(source, "no quote was read")
    for query, reason in _REASONS.items():
        if partition := connection.scalar(text(query), values):
            raise incomplete(source, reason.format(partition))


def check_files(engine: Engine, settings: Settings, source: Source, claim: Claim, hold: Callable[[], None]) -> bool:
    """Compare every partition with its checkpoint. Return False if a partition has appeared that was not read yet.

    hold: records that the slice is alive. Raise TerminalError if a partition has changed since the run read it.
    """
    partitions = list(source.partitions())
    if any(list_remaining_partitions(engine, claim, partitions)):
        return False
    cursors = _read_cursors(engine, claim)
    held_at = time.monotonic()
    for partition in partitions:
        if _has_changed(settings, source, claim, partition, cursors[partition]):
            raise incomplete(source, f"{partition} changed after it was read")
        if time.monotonic() >= held_at + HOLD_INTERVAL:
            hold()
            held_at = time.monotonic()
    return True


def incomplete(source: Source, reason: str) -> TerminalError:
    """Return the error of a run that deletes nothing."""
    return TerminalError(
        f"{source.name}: no quote was retracted, because {reason}. Request the full refresh again.",
        code="refresh_incomplete",
    )


def _read_cursors(engine: Engine, claim: Claim) -> dict[str, Cursor | None]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT partition, cursor FROM checkpoints WHERE source = :source AND done_by = :run"),
            {"source": claim.source, "run": claim.run},
        )
        return {row.partition: row.cursor for row in rows}


class _NoHttp:
    """A source that `replaces` has no upstream."""

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Response:
        raise TypeError(f"a source with replaces=True requested {path}")

    def post(self, path: str, json: Any, params: Mapping[str, str | int] | None = None) -> Response:
        return self.get(path)

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None, path: str = "") -> Response:
        return self.get(path)


def _has_changed(settings: Settings, source: Source, claim: Claim, partition: str, cursor: Cursor | None) -> bool:
    """Return whether a fetch that starts at the checkpoint's cursor yields a page."""
    skew = timedelta(seconds=settings.clock_skew)
    window = Window(str(claim.run), partition, cursor, claim.now, claim.scheduled_for, skew)
    pages = source.fetch(window, _NoHttp())
    try:
        return next(pages, None) is not None
    finally:
        if isinstance(pages, Generator):
            pages.close()
