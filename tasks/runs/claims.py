"""The moves of a run in a worker's hands. Each is a compare-and-swap: no row moved means that another holds it now."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from sources.contract import UNTIL_RESUMED, TerminalError
from tasks.runtime.safe_text import safe_text

DISK_FULL = "disk_full"
"""With this code begins the reason of a pause that ends by itself once Postgres has room again."""


@dataclass(frozen=True)
class Hold:
    """The right to move a run. number fences: a run claimed anew since has a higher one."""

    run: uuid.UUID
    number: int
    source: str
    kind: str


@dataclass(frozen=True)
class Claim(Hold):
    """A slice's hold on its run, and what the slice needs to know of it. assists: the hold is another worker's."""

    parameters: dict[str, Any]
    attempts: int
    request_id: str | None
    traceparent: str | None
    scheduled_for: datetime | None
    now: datetime
    paused_until: datetime | None
    paused_reason: str | None
    assists: bool = False


class ClaimLost(Exception):
    """The run is another's now, or ended; this slice must write nothing more."""


def claim_run(engine: Engine, run: uuid.UUID) -> Claim | None:
    """Start a slice of a run that is due; None where it is not: ended, taken, or to wait longer."""
    with engine.begin() as connection:
        row = (
            connection.execute(
                text("""
                    UPDATE runs SET status = 'running', claims = claims + 1, attempts = attempts + 1,
                           claimed_at = clock_timestamp(), started_at = coalesce(started_at, clock_timestamp()),
                           next_attempt_at = NULL, waiting_reason = NULL, published_at = NULL, publish_count = 0
                      FROM sources
                     WHERE runs.id = :run AND status IN ('queued', 'waiting') AND sources.name = runs.source
                       AND (next_attempt_at IS NULL OR next_attempt_at <= clock_timestamp())
                    RETURNING runs.id AS run, claims AS number, source, kind, parameters, attempts,
                              request_id, traceparent, scheduled_for, claimed_at AS now,
                              CASE WHEN paused_until > clock_timestamp() OR paused_until IS NULL
                                   THEN paused_reason END AS paused_reason,
                              CASE WHEN paused_until > clock_timestamp() THEN paused_until END AS paused_until
                """),
                {"run": run},
            )
            .mappings()
            .one_or_none()
        )
    return Claim(**row) if row else None


def join_run(engine: Engine, run: uuid.UUID, number: int) -> Claim | None:
    """The claim of a slice that is under way, for a worker that is to assist it; None where it has ended."""
    with engine.connect() as connection:
        row = (
            connection.execute(
                text("""
                    SELECT id AS run, claims AS number, source, kind, parameters, attempts, request_id, traceparent,
                           scheduled_for, clock_timestamp() AS now, NULL AS paused_until, NULL AS paused_reason,
                           true AS assists
                      FROM runs WHERE id = :run AND claims = :number AND status = 'running' AND NOT cancel_requested
                """),
                {"run": run, "number": number},
            )
            .mappings()
            .one_or_none()
        )
    return Claim(**row) if row else None


def put_back(engine: Engine, claim: Claim) -> None:
    """End a slice whose run goes on: the run is due at once."""
    with engine.begin() as connection:
        _move(connection, claim, f"{_unless_cancelled('queued')}, attempts = greatest(attempts - 1, 0)")


def wait(engine: Engine, claim: Claim, reason: str, *, seconds: float, is_failure: bool) -> None:
    """End a slice whose run cannot go on now. is_failure: it counts towards the waits after which a run gives up."""
    with engine.begin() as connection:
        _move(
            connection,
            claim,
            f"""{_unless_cancelled("waiting")}, attempts = greatest(attempts - 1, 0), waits = waits + :failures,
               waiting_reason = :reason || to_char(
                   clock_timestamp() + :gap, '"; looks again at "YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               next_attempt_at = clock_timestamp() + :gap""",
            reason=safe_text(reason),
            gap=timedelta(seconds=seconds),
            failures=int(is_failure),
        )


def waits_since_page(engine: Engine, claim: Claim) -> int:
    """How often the run has waited after a failure since its last committed page, which may be of this slice."""
    with engine.connect() as connection:
        waits: int = connection.execute(text("SELECT waits FROM runs WHERE id = :run"), {"run": claim.run}).scalar_one()
    return waits


def succeed(engine: Engine, claim: Claim) -> str:
    """End a run that has fetched all there was, by what became of its items; returns its last status.

    Raises TerminalError where none of them is in.
    """
    with engine.begin() as connection:
        outcome = connection.execute(
            text("""
                SELECT coalesce(sum(fetched), 0) AS fetched, coalesce(sum(rejected), 0) AS rejected,
                       EXISTS (SELECT FROM pages AS p
                                 JOIN rejects AS r ON r.source = p.source AND r.digest = p.body_digest
                                WHERE p.run = :run AND p.rejected > 0 AND state = 'quarantined'
                                  AND (jsonb_array_length(reasons) > 1 OR reasons->0->>'code' <> 'no_price')
                       ) AS noteworthy
                  FROM pages WHERE run = :run
            """),
            {"run": claim.run},
        ).one()
        if outcome.fetched and outcome.rejected == outcome.fetched:
            raise TerminalError(
                f"All of the {outcome.fetched} items that were fetched were rejected; see /runs/{claim.run}/rejects.",
                code="nothing_loaded",
            )
        # Upstreams list coins that have no price: worth keeping, not worth an alarm.
        status = "partial" if outcome.noteworthy else "succeeded"
        end(connection, claim, status)
        return status


def fail(connection: Connection, hold: Hold, code: str, detail: str, pause_for: timedelta | None = None) -> None:
    """Give a run up; pause_for: and run its source no more for so long, if what is live would fare the same."""
    end(connection, hold, "failed", code, detail)
    if pause_for is not None and hold.kind == "live":
        pause_at_least(connection, hold.source, pause_for, safe_text(f"{code}: {detail}"))


def end(connection: Connection, hold: Hold, status: str, code: str | None = None, detail: str | None = None) -> None:
    """Move a run to one of its ends."""
    _move(
        connection,
        hold,
        "status = :status, finished_at = clock_timestamp(), error_code = :code, error_detail = :detail",
        status=status,
        code=code,
        detail=safe_text(detail) if detail else None,
    )


def pause_at_least(connection: Connection, source: str, gap: timedelta, reason: str) -> None:
    """Pause a source, unless it is paused for longer already: an operator's word stands."""
    connection.execute(
        text("""
            UPDATE sources SET paused_reason = :reason,
                   paused_until = CASE WHEN :gap < :until_resumed THEN clock_timestamp() + :gap END
             WHERE name = :source
               AND (paused_reason IS NULL OR paused_until < clock_timestamp() + :gap)
        """),
        {"source": source, "gap": gap, "reason": reason, "until_resumed": UNTIL_RESUMED},
    )


def _unless_cancelled(status: str) -> str:
    """The assignments that move a run on, or end it if somebody asked for that meanwhile."""
    return f"""status = CASE WHEN cancel_requested THEN 'cancelled' ELSE '{status}' END,
               finished_at = CASE WHEN cancel_requested THEN clock_timestamp() END"""


def _move(connection: Connection, hold: Hold, assignments: str, **values: Any) -> None:
    moved = connection.execute(
        text(f"UPDATE runs SET {assignments} WHERE id = :run AND claims = :number AND status = 'running'"),
        {"run": hold.run, "number": hold.number, **values},
    )
    if moved.rowcount == 0:
        raise ClaimLost(str(hold.run))
    # What its assistants are committing comes in before the move, and nothing after it.
    connection.execute(
        text("""
            UPDATE checkpoints SET lease_run = NULL, lease_expires = NULL
             WHERE lease_run = :run AND lease_claim = :number
        """),
        {"run": hold.run, "number": hold.number},
    )
