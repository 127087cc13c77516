"""Read which partitions a run has finished in all its slices, and which partitions failed and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from sources.contract import PART_SEPARATOR, RESERVED_PREFIXES, Cursor, TerminalError
from tasks.runs.claims import Claim
from tasks.runtime.safe_text import MAX_DETAIL_CHARS

MAX_FAILURE_CHARS = MAX_DETAIL_CHARS // 8
"""Maximum characters of one partition's error in a detail that lists several errors."""


@dataclass(frozen=True)
class Failure:
    """The reason that a run could not read a partition. pause: seconds. is_final: whether no retry follows."""

    partition: str
    code: str
    detail: str
    pause: float | None
    is_final: bool

    @property
    def message(self) -> str:
        """Return the detail, preceded by the partition's name if the detail lacks it."""
        return self.detail if self.partition in self.detail else f"{self.partition}: {self.detail}"


def list_remaining_partitions(engine: Engine, claim: Claim, partitions: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the partitions that the run has not tried, and the partitions that it must retry.

    Untried partitions keep the source's order. Partitions to retry are sorted by the time of their failure, oldest
    first. A slice therefore continues where the last slice ended, however many partitions exist or fail.
    """
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT partition, done_by IS NOT DISTINCT FROM :run AS done FROM checkpoints
                 WHERE source = :source AND (done_by = :run OR failed_by = :run) ORDER BY failed_at, partition
            """),
            {"source": claim.source, "run": claim.run},
        ).all()
    tried_partitions = {row.partition for row in rows}
    ordered = list(partitions)
    existing_partitions = set(ordered)
    retries = [row.partition for row in rows if not row.done and row.partition in existing_partitions]
    return [partition for partition in ordered if partition not in tried_partitions], retries


def mark_missing(engine: Engine, claim: Claim, partitions: Iterable[str]) -> None:
    """Record which partitions of earlier runs are missing now. Partitions of replays and backfills do not count.

    A part of a partition, such as a range of a file, is missing only if the whole partition is.
    """
    present = {name.partition(PART_SEPARATOR)[0] for name in partitions}
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE checkpoints SET missing_since = CASE WHEN missing_since IS NULL THEN service_time() END
                 WHERE source = :source AND cursor IS NOT NULL AND NOT starts_with(partition, :replays)
                   AND NOT starts_with(partition, :backfills)
                   AND (missing_since IS NULL) <> (split_part(partition, :separator, 1) = ANY(CAST(:present AS text[])))
            """),
            {
                "source": claim.source,
                "present": list(present),
                "separator": PART_SEPARATOR,
                **dict(zip(("replays", "backfills"), RESERVED_PREFIXES, strict=True)),
            },
        )


def forget_missing(connection: Connection, source: str) -> None:
    """Delete the checkpoints of missing partitions. If such a partition appears again, it is read from the start."""
    connection.execute(
        text("DELETE FROM checkpoints WHERE source = :source AND missing_since IS NOT NULL AND lease_run IS NULL"),
        {"source": source},
    )


def find_unleased_partition(
    engine: Engine, claim: Claim, partitions: Sequence[str]
) -> tuple[str, Cursor | None] | None:
    """Return the first of these partitions that is neither leased nor done, with its checkpoint's cursor."""
    with engine.connect() as connection:
        row = connection.execute(
            text("""
                SELECT candidate.partition, cursor
                  FROM unnest(CAST(:partitions AS text[])) WITH ORDINALITY AS candidate(partition, position)
                  LEFT JOIN checkpoints AS c ON c.source = :source AND c.partition = candidate.partition
                 WHERE c.lease_run IS NULL AND c.done_by IS DISTINCT FROM :run ORDER BY position LIMIT 1
            """),
            {"source": claim.source, "run": claim.run, "partitions": list(partitions)},
        ).one_or_none()
    return (row.partition, row.cursor) if row else None


def list_failures(engine: Engine, claim: Claim) -> list[Failure]:
    """Return the failures of the run's partitions so far, in all its slices."""
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT partition, error->>'code' AS code, error->>'detail' AS detail,
                       (error->>'pause')::float AS pause, done_by IS NOT DISTINCT FROM failed_by AS is_final
                  FROM checkpoints WHERE source = :source AND failed_by = :run ORDER BY partition
            """),
            {"source": claim.source, "run": claim.run},
        )
        return [Failure(**row) for row in rows.mappings()]


def raise_final_failures(engine: Engine, claim: Claim) -> None:
    """Raise TerminalError for the first final failure. Call this after all other partitions are loaded."""
    failures = [failure for failure in list_failures(engine, claim) if failure.is_final]
    if failures:
        pauses = [failure.pause for failure in failures if failure.pause is not None]
        pause = timedelta(seconds=max(pauses)) if pauses else None
        raise TerminalError(failures[0].message, code=failures[0].code, pause=pause)


def append_failures(engine: Engine, claim: Claim, detail: str) -> str:
    """Return a failed run's error detail, followed by the errors of the partitions that it could not read.

    The result has at most MAX_DETAIL_CHARS characters. Errors that do not fit are counted.
    """
    messages = [
        message
        for failure in list_failures(engine, claim)
        if (message := failure.message[:MAX_FAILURE_CHARS]) not in detail
    ]
    result = detail[: MAX_DETAIL_CHARS // 2] if messages else detail
    for position, message in enumerate(messages):
        rest = f"; and {len(messages) - position} more"
        if len(result) + len(message) + 2 + len(rest) > MAX_DETAIL_CHARS:
            return result + rest
        result += f"; {message}"
    return result
