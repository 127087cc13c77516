"""A run's right to write for a partition: taken by compare-and-swap, proved at each page's fence, let go at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from sources.contract import TerminalError, TransientError
from tasks.runs.claims import Claim, ClaimLost
from tasks.runtime.fault_points import reach
from tasks.runtime.safe_text import safe_text


@dataclass
class Lease:
    """token fences: whoever took the lease after us has a higher one. seconds: how long it lasts without a page.

    version: the checkpoint's, as this slice last saw it; each page makes it one higher.
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
    """Somebody else may write for the partition. seconds: until that right ends. beside_us: it works on our own run."""

    def __init__(self, partition: str, run: str, seconds: float, *, beside_us: bool):
        super().__init__(f"partition {partition!r} is leased to run {run}")
        self.seconds, self.beside_us = seconds, beside_us


class PartitionDone(Exception):
    """Another worker has been through the partition for our run."""


class LeaseLost(Exception):
    """Somebody else took the lease over, or the checkpoint is not where it was left; this slice writes nothing more."""


class Cancelled(Exception):
    """Somebody asked for the run to end."""


def take_lease(engine: Engine, claim: Claim, partition: str, seconds: float, *, silent: float | None = None) -> Lease:
    """The lease of a partition: free, run out, or left by an earlier slice of our run.

    silent: seconds after which one is taken from a worker of this slice's run, too, that has committed no page in them.
    Raises LeaseHeld, PartitionDone, ClaimLost, Cancelled.
    """
    named = {"source": claim.source, "partition": partition}
    reach("before_lease")
    with engine.begin() as connection:
        cancelled = _show_life(connection, claim)
        if cancelled is None:
            raise ClaimLost(str(claim.run))
        if cancelled:
            raise Cancelled
        connection.execute(
            text("INSERT INTO checkpoints (source, partition) VALUES (:source, :partition) ON CONFLICT DO NOTHING"),
            named,
        )
        taken = connection.execute(
            text("""
                UPDATE checkpoints
                   SET lease_run = :run, lease_claim = :number, lease_token = lease_token + 1,
                       lease_expires = clock_timestamp() + :lease
                 WHERE source = :source AND partition = :partition AND done_by IS DISTINCT FROM :run
                   AND (lease_run IS NULL OR lease_run = :run AND lease_claim IS DISTINCT FROM :number
                        OR lease_expires <= clock_timestamp()
                           + CASE WHEN lease_run = :run THEN :left_when_silent ELSE interval '0' END
                        -- taken while the clock was ahead: no lease of today ends so late
                        OR lease_expires > clock_timestamp() + :lease)
                RETURNING lease_token, cursor, version
            """),
            {
                **named,
                "run": claim.run,
                "number": claim.number,
                "lease": timedelta(seconds=seconds),
                "left_when_silent": timedelta(seconds=0 if silent is None else seconds - silent),
            },
        ).one_or_none()
        if taken is None:
            raise _why_not(connection, claim, partition)
    return Lease(claim, partition, taken.lease_token, taken.cursor, taken.version, seconds)


def _why_not(connection: Connection, claim: Claim, partition: str) -> LeaseHeld | PartitionDone:
    held = connection.execute(
        text("""
            SELECT lease_run, greatest(extract(epoch FROM lease_expires - clock_timestamp()), 0)::float AS left,
                   done_by IS NOT DISTINCT FROM :run AS is_done
              FROM checkpoints WHERE source = :source AND partition = :partition
        """),
        {"source": claim.source, "partition": partition, "run": claim.run},
    ).one()
    if held.is_done:
        return PartitionDone(partition)
    # It may have been let go of just now.
    run = str(held.lease_run or "no more")
    return LeaseHeld(partition, run, held.left or 0.0, beside_us=held.lease_run in (None, claim.run))


def release_lease(
    engine: Engine, lease: Lease, *, done: bool = False, failed: TransientError | TerminalError | None = None
) -> None:
    """Let go of a partition. done: the run need not look at it again; raises LeaseLost.

    failed: why it could not be read. Without done, the run tries it again after its other partitions.
    """
    with engine.begin() as connection:
        _show_life(connection, lease.claim)
        released = connection.execute(
            text("""
                UPDATE checkpoints
                   SET lease_run = NULL, lease_expires = NULL,
                       done_by = CASE WHEN :done THEN :run ELSE done_by END,
                       (failed_by, failed_at, error) = (
                           SELECT :run, clock_timestamp(), CAST(:error AS jsonb) WHERE :failed
                            UNION ALL SELECT failed_by, failed_at, error WHERE NOT :failed AND NOT :done)
                 WHERE source = :source AND partition = :partition AND lease_run = :run AND lease_token = :token
                   AND (version = :version OR NOT :done)
            """),
            {
                **lease.key,
                "version": lease.version,
                "done": done,
                "failed": failed is not None,
                "error": json.dumps(_error(failed)) if failed else None,
            },
        )
        if done and released.rowcount == 0:
            raise LeaseLost(f"the checkpoint of partition {lease.partition!r} is not where this slice left it")


def _error(failed: TransientError | TerminalError) -> dict[str, Any]:
    pause = failed.pause.total_seconds() if isinstance(failed, TerminalError) and failed.pause else None
    return {"code": failed.code, "detail": safe_text(failed.detail), "pause": pause}


def _show_life(connection: Connection, claim: Claim) -> bool | None:
    """Show that the slice still works, between one partition's lease and the next; gives whether it is to be cancelled.

    None where the claim is lost. An assistant waits for who is just moving the run, and leaves it as it is.
    """
    held = "id = :run AND claims = :number AND status = 'running'"
    cancelled: bool | None = connection.scalar(
        text(
            f"SELECT cancel_requested FROM runs WHERE {held} FOR SHARE"
            if claim.assists
            else f"UPDATE runs SET claimed_at = clock_timestamp() WHERE {held} RETURNING cancel_requested"
        ),
        {"run": claim.run, "number": claim.number},
    )
    return cancelled
