"""A run's right to write for a partition: taken by compare-and-swap, proved at each page's fence, let go at the end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from tasks.claims import Claim, ClaimLost
from tasks.faults import reach


@dataclass(frozen=True)
class Lease:
    """token fences: whoever took the lease after us has a higher one. seconds: how long it lasts without a page."""

    claim: Claim
    partition: str
    token: int
    cursor: dict[str, Any] | None
    seconds: float

    @property
    def key(self) -> dict[str, Any]:
        return {
            "source": self.claim.source,
            "partition": self.partition,
            "run": self.claim.run,
            "token": self.token,
        }


class LeaseHeld(Exception):
    """Another run may write for the partition. seconds: until that right ends."""

    def __init__(self, partition: str, run: str, seconds: float):
        super().__init__(f"partition {partition!r} is leased to run {run}")
        self.seconds = seconds


class LeaseLost(Exception):
    """Somebody else took the lease over: this slice was given up for dead, and must write nothing more."""


class Cancelled(Exception):
    """Somebody asked for the run to end."""


def take_lease(engine: Engine, claim: Claim, partition: str, seconds: float) -> Lease:
    """The lease of a partition, free, run out, or our own run's; raises LeaseHeld, ClaimLost."""
    named = {"source": claim.source, "partition": partition}
    reach("before_lease")
    with engine.begin() as connection:
        _touch(connection, claim)
        connection.execute(
            text("INSERT INTO checkpoints (source, partition) VALUES (:source, :partition) ON CONFLICT DO NOTHING"),
            named,
        )
        taken = connection.execute(
            text("""
                UPDATE checkpoints
                   SET lease_run = :run, lease_token = lease_token + 1, lease_expires = clock_timestamp() + :lease
                 WHERE source = :source AND partition = :partition
                   AND (lease_run IS NULL OR lease_run = :run OR lease_expires <= clock_timestamp()
                        -- taken while the clock was ahead: no lease of today ends so late
                        OR lease_expires > clock_timestamp() + :lease)
                RETURNING lease_token, cursor
            """),
            {**named, "run": claim.run, "lease": timedelta(seconds=seconds)},
        ).one_or_none()
        if taken is None:
            held = connection.execute(
                text("""
                    SELECT lease_run, greatest(extract(epoch FROM lease_expires - clock_timestamp()), 0)::float AS left
                      FROM checkpoints WHERE source = :source AND partition = :partition
                """),
                named,
            ).one()
            raise LeaseHeld(partition, str(held.lease_run), held.left)
    return Lease(claim, partition, taken.lease_token, taken.cursor, seconds)


def release_lease(engine: Engine, lease: Lease, *, done: bool = False) -> None:
    """Let go of a partition. done: the run has been through it, and need not look at it again."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE checkpoints SET lease_run = NULL, lease_expires = NULL,
                       done_by = CASE WHEN :done THEN :run ELSE done_by END
                 WHERE source = :source AND partition = :partition AND lease_run = :run AND lease_token = :token
            """),
            {**lease.key, "done": done},
        )


def _touch(connection: Connection, claim: Claim) -> None:
    """Show that the slice still works, between the lease of one partition and that of the next."""
    touched = connection.execute(
        text("""
            UPDATE runs SET claimed_at = clock_timestamp()
             WHERE id = :run AND claims = :number AND status = 'running'
            RETURNING cancel_requested
        """),
        {"run": claim.run, "number": claim.number},
    ).one_or_none()
    if touched is None:
        raise ClaimLost(str(claim.run))
    if touched.cancel_requested:
        raise Cancelled
