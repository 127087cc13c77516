"""Keep the progress of a retraction in the row of its run, so that any slice can continue it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from sqlalchemy import Connection, text

from tasks.runs.claims import IS_HELD, Claim, ClaimLost
from tasks.runs.leases import Cancelled, LeaseHeld

Phase = Literal["compare", "compared", "delete", "done"]

QuotePosition = tuple[int, str]
"""The position of a quote in the order of the primary key: its listing's id and its time, as ISO text."""

START: QuotePosition = (-1, "-infinity")


@dataclass(frozen=True)
class Retraction:
    """The progress of a retraction.

    token:    a random id. A database that lost the start of the retraction does not have it.
    phase:    compare: count the missing quotes. compared: all are counted. delete: delete them. done: finished.
    position: the last quote that the current phase has looked at.
    compared, missing, deleted: numbers of quotes.
    first:    the positions of the first missing quotes.
    samples:  the first missing quotes, as the API returns them.
    """

    token: str
    phase: Phase = "compare"
    position: QuotePosition = START
    compared: int = 0
    missing: int = 0
    deleted: int = 0
    first: tuple[QuotePosition, ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def begin(cls) -> Self:
        return cls(uuid.uuid4().hex)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Build an instance from the JSON in the row of a run."""
        positions = {"position": _position(stored["position"]), "first": tuple(map(_position, stored["first"]))}
        return cls(**{**stored, **positions, "samples": tuple(stored["samples"])})

    def advanced(
        self,
        position: QuotePosition | None,
        *,
        compared: int = 0,
        missing: Sequence[QuotePosition] = (),
        deleted: int = 0,
    ) -> Retraction:
        """Return the progress after a batch. position: the batch's last quote; None after the last batch of a phase."""
        after: Phase = "compared" if self.phase == "compare" else "done"
        return replace(
            self,
            phase=self.phase if position else after,
            position=position or START,
            compared=self.compared + compared,
            missing=self.missing + len(missing),
            deleted=self.deleted + deleted,
            first=(*self.first, *missing)[:MAX_SAMPLES],
        )


MAX_SAMPLES = 5
"""Number of missing quotes that a run names."""


def read_retraction(connection: Connection, claim: Claim) -> Retraction | None:
    """Return the progress of the run's retraction. Return None if it has not started."""
    stored = connection.scalar(text("SELECT retraction FROM runs WHERE id = :run"), {"run": claim.run})
    return None if stored is None else Retraction.of(stored)


def hold_run(connection: Connection, claim: Claim) -> None:
    """Lock the run until the end of the transaction, and record that its slice is alive.

    Until then, no assistant of the run can lease a partition. Raise ClaimLost or Cancelled.
    """
    cancelled = connection.scalar(
        text(f"UPDATE runs SET claimed_at = service_time() WHERE {IS_HELD} RETURNING cancel_requested"), claim.key
    )
    if cancelled is None:
        raise ClaimLost(str(claim.run))
    if cancelled:
        raise Cancelled


def require_no_lease(connection: Connection, claim: Claim) -> None:
    """Raise LeaseHeld if another worker may load a page of the source. Call this after `hold_run`.

    An assistant may load a file that has just appeared, and a worker of an earlier version may replay stored pages.
    """
    lease = connection.execute(
        text("""
            SELECT partition, lease_run,
                   greatest(extract(epoch FROM lease_expires - service_time()), 1)::float AS seconds
              FROM checkpoints JOIN runs ON runs.id = lease_run AND runs.finished_at IS NULL
             WHERE checkpoints.source = :source ORDER BY partition LIMIT 1
        """),
        {"source": claim.source},
    ).one_or_none()
    if lease:
        raise LeaseHeld(lease.partition, lease.lease_run, lease.seconds, same_run=lease.lease_run == claim.run)


def save_retraction(connection: Connection, claim: Claim, retraction: Retraction, *, begins: bool = False) -> None:
    """Store the progress. It counts as progress of the run, so that its earlier failures no longer count.

    begins: whether the retraction starts. Otherwise, raise ClaimLost if the database lost its start.
    """
    changed = connection.execute(
        text("""
            UPDATE runs SET retraction = CAST(:retraction AS jsonb), attempts = 0, waits = 0
             WHERE id = :run AND (:begins OR retraction->>'token' = :token)
        """),
        {
            "run": claim.run,
            "retraction": json.dumps(asdict(retraction)),
            "begins": begins,
            "token": retraction.token,
        },
    ).rowcount
    if not changed:
        raise ClaimLost(f"{claim.run}: the database lost the start of the retraction")


def _position(stored: Sequence[Any]) -> QuotePosition:
    listing, at = stored
    return listing, at
