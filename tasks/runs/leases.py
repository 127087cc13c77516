"""Lease partitions to runs. A lease is taken by compare-and-swap, checked before each page, and released at the end."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from sources.contract import TerminalError, TransientError
from tasks.runs.claims import IS_HELD, Claim, ClaimLost
from tasks.runtime.fault_points import reach
from tasks.runtime.safe_text import safe_text

MAX_STEP = 2**31
"""Tokens and versions grow by random steps of at most this. A database that lost commits never repeats their numbers,
as it would with steps of 1. Workers of earlier versions add 1, and run next to newer ones."""


@dataclass
class Lease:
    """A run's right to write to a partition.

    token:   the fencing token. Each later lease of the partition has a higher token.
    version: the checkpoint's version that this slice last read or wrote. Each page increases it.
    seconds: how long the lease lasts without a committed page.
    """

    claim: Claim
    partition: str
    token: int
    cursor: dict[str, Any] | None
    version: int
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
    """Another worker holds the lease.

    seconds:  remaining seconds of the lease.
    same_run: whether that worker processes this slice's run.
    """

    def __init__(self, partition: str, run: UUID | None, seconds: float, *, same_run: bool):
        holder = f"is leased to run {run}" if run else "was released just now"
        super().__init__(f"partition {partition!r} {holder}")
        self.seconds, self.same_run = seconds, same_run


class PartitionDone(Exception):
    """Another worker has finished the partition for this run."""


class LeaseLost(Exception):
    """Another worker took over the lease or changed the checkpoint. This slice must not write again."""


class Cancelled(Exception):
    """A person cancelled the run."""


def next_version(version: int) -> int:
    """Return a version for a checkpoint's next page that no other page has, not even a page that the database lost."""
    return version + 1 + secrets.randbelow(MAX_STEP)


def take_lease(
    engine: Engine, claim: Claim, partition: str, seconds: float, *, takeover_after: float | None = None
) -> Lease:
    """Take the lease of a partition. It must be free, expired, or held by an earlier slice of the run.

    takeover_after: also take the lease from another worker of the same slice, if that worker has committed no page
    for this many seconds. None: never.

    Raise LeaseHeld, PartitionDone, ClaimLost or Cancelled.
    """
    key = {"source": claim.source, "partition": partition}
    reach("before_lease")
    with engine.begin() as connection:
        cancelled = _renew_claim(connection, claim)
        if cancelled is None:
            raise ClaimLost(str(claim.run))
        if cancelled:
            raise Cancelled
        connection.execute(
            text("INSERT INTO checkpoints (source, partition) VALUES (:source, :partition) ON CONFLICT DO NOTHING"),
            key,
        )
        row = connection.execute(
            text("""
                UPDATE checkpoints
                   SET lease_run = :run, lease_claim = :number, lease_token = lease_token + :step,
                       lease_expires = service_time() + :lease
                 WHERE source = :source AND partition = :partition AND done_by IS DISTINCT FROM :run
                   AND (lease_run IS NULL OR lease_run = :run AND lease_claim IS DISTINCT FROM :number
                        OR lease_expires <= service_time()
                           + CASE WHEN lease_run = :run THEN :left_at_takeover ELSE interval '0' END
                        -- No valid lease ends that late. This lease was taken while the clock was ahead.
                        OR lease_expires > service_time() + :lease)
                RETURNING lease_token, cursor, version
            """),
            {
                **key,
                "run": claim.run,
                "number": claim.number,
                "step": 1 + secrets.randbelow(MAX_STEP),
                "lease": timedelta(seconds=seconds),
                "left_at_takeover": timedelta(seconds=0 if takeover_after is None else seconds - takeover_after),
            },
        ).one_or_none()
        if row is None:
            raise _reason_not_taken(connection, claim, partition)
    return Lease(claim, partition, row.lease_token, row.cursor, row.version, seconds)


def _reason_not_taken(connection: Connection, claim: Claim, partition: str) -> LeaseHeld | PartitionDone:
    row = connection.execute(
        text("""
            SELECT lease_run, greatest(extract(epoch FROM lease_expires - service_time()), 0)::float AS seconds_left,
                   done_by IS NOT DISTINCT FROM :run AS is_done
              FROM checkpoints WHERE source = :source AND partition = :partition
        """),
        {"source": claim.source, "partition": partition, "run": claim.run},
    ).one()
    if row.is_done:
        return PartitionDone(partition)
    # lease_run is NULL if the lease was released between the two statements.
    return LeaseHeld(partition, row.lease_run, row.seconds_left or 0.0, same_run=row.lease_run in (None, claim.run))


def release_lease(
    engine: Engine,
    lease: Lease,
    *,
    done: bool = False,
    failed: TransientError | TerminalError | None = None,
    restart: bool = False,
) -> None:
    """Release the lease of a partition.

    done:   whether the run has finished the partition. If so, raise LeaseLost if the checkpoint changed since the
            slice read it.
    failed: the error that prevented reading the partition. Without `done`, the run retries it after its other
            partitions.
    """
    with engine.begin() as connection:
        _renew_claim(connection, lease.claim)
        result = connection.execute(
            text("""
                UPDATE checkpoints
                   SET lease_run = NULL, lease_expires = NULL,
                       cursor = CASE WHEN NOT :restart THEN cursor END,
                       done_by = CASE WHEN :done THEN :run ELSE done_by END,
                       (failed_by, failed_at, error) = (
                           SELECT :run, service_time(), CAST(:error AS jsonb) WHERE :failed
                            UNION ALL SELECT failed_by, failed_at, error WHERE NOT :failed AND NOT :done)
                 WHERE source = :source AND partition = :partition AND lease_run = :run AND lease_token = :token
                   AND (version = :version OR NOT :done)
            """),
            {
                **lease.key,
                "version": lease.version,
                "done": done,
                "restart": restart,
                "failed": failed is not None,
                "error": json.dumps(_error(failed)) if failed else None,
            },
        )
        if done and result.rowcount == 0:
            raise LeaseLost(f"the checkpoint of partition {lease.partition!r} changed since this slice last read it")


def _error(failed: TransientError | TerminalError) -> dict[str, Any]:
    pause = failed.pause.total_seconds() if isinstance(failed, TerminalError) and failed.pause else None
    return {"code": failed.code, "detail": safe_text(failed.detail), "pause": pause}


def _renew_claim(connection: Connection, claim: Claim) -> bool | None:
    """Record that the slice is alive. Return whether its run must be cancelled, or None if the claim is lost.

    For an assistant, record nothing, but wait until a concurrent move of the run is committed.
    """
    cancelled: bool | None = connection.scalar(
        text(
            f"SELECT cancel_requested FROM runs WHERE {IS_HELD} FOR SHARE"
            if claim.assists
            else f"UPDATE runs SET claimed_at = service_time() WHERE {IS_HELD} RETURNING cancel_requested"
        ),
        claim.key,
    )
    return cancelled
