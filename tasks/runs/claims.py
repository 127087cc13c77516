"""Move a run from state to state. Each move is a compare-and-swap: if no row changes, another worker has the run."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from sources.contract import UNTIL_RESUMED, TerminalError
from sources.reject_codes import MAX_REJECTS_PER_PAGE
from tasks.runtime.safe_text import safe_text

QUOTED_REJECTS, QUOTED_CHARS = 3, 200
"""The number of rejects in the error of a run that loaded nothing, and the maximum characters of each."""

DISK_FULL = "disk_full"
"""The first word of a pause's reason, if Postgres ran out of disk space. Such a pause ends automatically."""


@dataclass(frozen=True)
class Hold:
    """The right to move a run. `number` is a fencing token: each later claim of the run has a higher number."""

    run: uuid.UUID
    number: int
    source: str
    kind: str


@dataclass(frozen=True)
class Claim(Hold):
    """A slice's hold on its run, with the data that the slice needs.

    now:           the database's time when the slice started (aware, UTC).
    paused_reason: set while the source is paused; `paused_until` is None if the pause has no end.
    assists:       True for an assistant, which uses the hold of the slice that it assists.
    """

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
    """The run has ended, or another worker has claimed it. This slice must not write again."""


def claim_run(engine: Engine, run: uuid.UUID) -> Claim | None:
    """Claim a due run for a slice. Return None if the run has ended, is already claimed, or must wait longer."""
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
    """Return a claim for an assistant of a running slice. Return None if that slice has ended."""
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


def requeue_run(engine: Engine, claim: Claim) -> None:
    """End a slice, and queue its run for the next slice. The run is due immediately."""
    with engine.begin() as connection:
        _move(connection, claim, f"{_unless_cancelled('queued')}, attempts = greatest(attempts - 1, 0)")


def postpone_run(engine: Engine, claim: Claim, reason: str, *, seconds: float, is_failure: bool) -> None:
    """End a slice, and make its run wait for `seconds`. With is_failure, the wait counts toward MAX_WAITS."""
    with engine.begin() as connection:
        _move(
            connection,
            claim,
            f"""{_unless_cancelled("waiting")}, attempts = greatest(attempts - 1, 0), waits = waits + :failures,
               waiting_reason = :reason || to_char(
                   clock_timestamp() + :gap, '"; next attempt at "YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               next_attempt_at = clock_timestamp() + :gap""",
            reason=safe_text(reason),
            gap=timedelta(seconds=seconds),
            failures=int(is_failure),
        )


def count_waits(engine: Engine, claim: Claim) -> int:
    """Return the number of waits after failures since the run's last committed page."""
    with engine.connect() as connection:
        waits: int = connection.execute(text("SELECT waits FROM runs WHERE id = :run"), {"run": claim.run}).scalar_one()
    return waits


def complete_run(engine: Engine, claim: Claim) -> str:
    """End a run that has fetched everything. Return its status: `succeeded`, or `partial` if items were rejected.

    Raise TerminalError if every item was rejected.
    """
    with engine.begin() as connection:
        outcome = connection.execute(
            text("""
                SELECT coalesce(sum(fetched), 0) AS fetched, coalesce(sum(rejected), 0) AS rejected,
                       EXISTS (SELECT FROM pages AS p
                                 JOIN rejects AS r ON r.source = p.source AND r.digest = p.body_digest
                                WHERE p.run = :run AND p.rejected > 0 AND state = 'quarantined'
                                  AND (jsonb_array_length(reasons) > 1 OR reasons->0->>'code' <> 'no_price')
                       ) OR coalesce(max(rejected), 0) > :max_rejects AS noteworthy
                  FROM pages WHERE run = :run
            """),
            {"run": claim.run, "max_rejects": MAX_REJECTS_PER_PAGE},
        ).one()
        if outcome.fetched and outcome.rejected == outcome.fetched:
            raise TerminalError(
                f"All {outcome.fetched} fetched items were rejected; see /runs/{claim.run}/rejects. "
                f"The first of them: {_first_rejects(connection, claim)}",
                code="nothing_loaded",
            )
        # Some upstreams list coins without a price. These rejects are stored, but do not make the run `partial`.
        status = "partial" if outcome.noteworthy else "succeeded"
        end_run(connection, claim, status)
        return status


def _first_rejects(connection: Connection, claim: Claim) -> str:
    """Return the beginnings of the run's first rejects, each with its first reason."""
    rows = connection.execute(
        text("""
            SELECT left(item, :max_chars) AS item, reasons -> 0 ->> 'detail' AS detail
              FROM pages AS p JOIN rejects AS r ON r.source = p.source AND r.digest = p.body_digest
             WHERE p.run = :run AND p.rejected > 0 ORDER BY p.partition, p.seq, r.item_index LIMIT :quoted
        """),
        {"run": claim.run, "quoted": QUOTED_REJECTS, "max_chars": QUOTED_CHARS},
    )
    return "; ".join(safe_text(f"{row.item} ({row.detail})") for row in rows)


def fail_run(connection: Connection, hold: Hold, code: str, detail: str, pause: timedelta | None = None) -> None:
    """End a run as failed. For a live run with `pause`, also pause its source, because the next run would fail too."""
    end_run(connection, hold, "failed", code, detail)
    if pause is not None and hold.kind == "live":
        extend_pause(connection, hold.source, pause, safe_text(f"{code}: {detail}"))


def end_run(
    connection: Connection, hold: Hold, status: str, code: str | None = None, detail: str | None = None
) -> None:
    """Move a run to a final status."""
    _move(
        connection,
        hold,
        "status = :status, finished_at = clock_timestamp(), error_code = :code, error_detail = :detail",
        status=status,
        code=code,
        detail=safe_text(detail) if detail else None,
    )


def extend_pause(connection: Connection, source: str, gap: timedelta, reason: str) -> None:
    """Pause a source for `gap` from now. A longer pause, such as an operator's, stays unchanged."""
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
    """Return SQL assignments that set a run's status, or that cancel the run if this was requested meanwhile."""
    return f"""status = CASE WHEN cancel_requested THEN 'cancelled' ELSE '{status}' END,
               finished_at = CASE WHEN cancel_requested THEN clock_timestamp() END"""


def _move(connection: Connection, hold: Hold, assignments: str, **values: Any) -> None:
    result = connection.execute(
        text(f"UPDATE runs SET {assignments} WHERE id = :run AND claims = :number AND status = 'running'"),
        {"run": hold.run, "number": hold.number, **values},
    )
    if result.rowcount == 0:
        raise ClaimLost(str(hold.run))
    # This waits for the pages that assistants are committing. Later pages are rejected.
    connection.execute(
        text("""
            UPDATE checkpoints SET lease_run = NULL, lease_expires = NULL
             WHERE lease_run = :run AND lease_claim = :number
        """),
        {"run": hold.run, "number": hold.number},
    )
