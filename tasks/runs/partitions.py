"""What a run knows of its partitions from one slice to the next: which are done, which failed and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine, text

from sources.contract import Cursor, TerminalError
from tasks.runs.claims import Claim
from tasks.runtime.safe_text import MAX_DETAIL

LONGEST_NAMED = MAX_DETAIL // 8
"""Characters of one partition's error, where a run's end names several."""


@dataclass(frozen=True)
class Failure:
    """Why a run could not read a partition. for_good: it does not try again."""

    partition: str
    code: str
    detail: str
    pause: float | None
    for_good: bool

    @property
    def named(self) -> str:
        """Its detail, which says of which partition it is."""
        return self.detail if self.partition in self.detail else f"{self.partition}: {self.detail}"


def partitions_left(engine: Engine, claim: Claim, partitions: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those that the run has not tried, as the source names them; and those that have to wait, the longest first.

    A slice begins where the last one ended, however many partitions there are, and however many of them fail.
    """
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT partition, done_by IS NOT DISTINCT FROM :run AS done FROM checkpoints
                 WHERE source = :source AND (done_by = :run OR failed_by = :run) ORDER BY failed_at, partition
            """),
            {"source": claim.source, "run": claim.run},
        ).all()
    tried = {row.partition for row in rows}
    named = list(partitions)
    there = set(named)
    waiting = [row.partition for row in rows if not row.done and row.partition in there]
    return [partition for partition in named if partition not in tried], waiting


def first_unclaimed(engine: Engine, claim: Claim, partitions: Sequence[str]) -> tuple[str, Cursor | None] | None:
    """The first of these that has no lease, and that is not done, with its checkpoint's cursor. As of now."""
    with engine.connect() as connection:
        free = connection.execute(
            text("""
                SELECT named.partition, cursor
                  FROM unnest(CAST(:partitions AS text[])) WITH ORDINALITY AS named(partition, place)
                  LEFT JOIN checkpoints AS c ON c.source = :source AND c.partition = named.partition
                 WHERE c.lease_run IS NULL AND c.done_by IS DISTINCT FROM :run ORDER BY place LIMIT 1
            """),
            {"source": claim.source, "run": claim.run, "partitions": list(partitions)},
        ).one_or_none()
    return (free.partition, free.cursor) if free else None


def failures(engine: Engine, claim: Claim) -> list[Failure]:
    """The partitions that the run could not read so far, over all its slices."""
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT partition, error->>'code' AS code, error->>'detail' AS detail,
                       (error->>'pause')::float AS pause, done_by IS NOT DISTINCT FROM failed_by AS for_good
                  FROM checkpoints WHERE source = :source AND failed_by = :run ORDER BY partition
            """),
            {"source": claim.source, "run": claim.run},
        )
        return [Failure(**row) for row in rows.mappings()]


def raise_failed(engine: Engine, claim: Claim) -> None:
    """Once all else is in, raise TerminalError if partitions could not be read. Its end names the others too."""
    failed = [failure for failure in failures(engine, claim) if failure.for_good]
    if failed:
        pauses = [failure.pause for failure in failed if failure.pause is not None]
        pause = timedelta(seconds=max(pauses)) if pauses else None
        raise TerminalError(failed[0].named, code=failed[0].code, pause=pause)


def with_failures(engine: Engine, claim: Claim, detail: str) -> str:
    """What a run that is given up says: its own detail, and each other partition that it could not read."""
    others = [named for it in failures(engine, claim) if (named := it.named[:LONGEST_NAMED]) not in detail]
    said = detail[: MAX_DETAIL // 2] if others else detail
    for place, named in enumerate(others):
        rest = f"; and {len(others) - place} more"
        if len(said) + len(named) + 2 + len(rest) > MAX_DETAIL:
            return said + rest
        said += f"; {named}"
    return said
