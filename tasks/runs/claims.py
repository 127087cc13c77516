"""Move a run from state to state. Each move is a compare-and-swap: if no row changes, another worker has the run."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, text

from sources.contract import UNTIL_RESUMED, TerminalError
from sources.reject_codes import MAX_REJECTS_PER_PAGE, MAX_REJECTS_PER_RUN
from tasks.runtime.safe_text import safe_text
from tasks.runtime.service_clock import READING, Reading, monotonic_seconds, observe, with_steady_clock

QUOTED_REJECTS, QUOTED_CHARS = 3, 200
"""The number of rejects in the error of a run that loaded nothing, and the maximum characters of each."""

DISK_FULL = "disk_full"
"""The first word of a pause's reason, if Postgres ran out of disk space. Such a pause ends automatically."""

IS_HELD = "id = :run AND claims = :number AND claim_token IS NOT DISTINCT FROM :claim_token AND status = 'running'"
"""The SQL condition that a row of `runs` is still claimed by a hold. Hold.key returns its parameters."""


_HISTORY = "(SELECT token FROM timelines ORDER BY timelines.number DESC LIMIT 1) AS history"


@dataclass(frozen=True)
class Hold:
    """The right to move a run. `number` is a fencing token: each later claim of the run has a higher number.

    token: a random id of the claim. After the database lost a claim, another worker's claim can have the same number.
    """

    run: uuid.UUID
    number: int
    token: uuid.UUID | None
    source: str
    kind: str

    @property
    def key(self) -> dict[str, Any]:
        return {"run": self.run, "number": self.number, "claim_token": self.token}


@dataclass(frozen=True)
class Claim(Hold):
    """A slice's hold on its run, with the data that the slice needs.

    history:       the newest row of `timelines` when the slice started.
    now:           the service's time when the slice started (aware, UTC).
    paused_reason: set while the source is paused; `paused_until` is None if the pause has no end.
    assists:       True for an assistant, which uses the hold of the slice that it assists.
    """

    parameters: dict[str, Any]
    attempts: int
    request_id: str | None
    traceparent: str | None
    scheduled_for: datetime | None
    history: uuid.UUID | None
    now: datetime
    paused_until: datetime | None
    paused_reason: str | None
    assists: bool = False


class ClaimLost(Exception):
    """The run has ended, or another worker has claimed it. This slice must not write again."""


def claim_run(engine: Engine, run: uuid.UUID) -> Claim | None:
    """Claim a due run for a slice. Return None if the run has ended, is already claimed, or must wait longer."""
    return with_steady_clock(engine, lambda: _claim_run(engine, run))


def _claim_run(engine: Engine, run: uuid.UUID) -> Claim | None:
    asked_at = monotonic_seconds()
    with engine.begin() as connection:
        row = (
            connection.execute(
                text(f"""
                    UPDATE runs SET status = 'running', claims = claims + 1, attempts = attempts + 1,
                           claim_token = gen_random_uuid(),
                           claimed_at = service_time(), started_at = coalesce(started_at, service_time()),
                           next_attempt_at = NULL, waiting_reason = NULL, published_at = NULL, publish_count = 0
                      FROM sources
                     WHERE runs.id = :run AND status IN ('queued', 'waiting') AND sources.name = runs.source
                       AND (next_attempt_at IS NULL OR next_attempt_at <= service_time())
                       AND NOT EXISTS (SELECT FROM runs AS earlier WHERE earlier.id = runs.after_run
                                          AND earlier.status IN ('queued', 'running', 'waiting'))
                    RETURNING runs.id AS run, claims AS number, claim_token AS token, source, kind, parameters,
                              attempts, request_id, traceparent, scheduled_for, {_HISTORY}, claimed_at AS now,
                              {READING},
                              CASE WHEN paused_until > service_time() OR paused_until IS NULL
                                   THEN paused_reason END AS paused_reason,
                              CASE WHEN paused_until > service_time() THEN paused_until END AS paused_until
                """),
                {"run": run},
            )
            .mappings()
            .one_or_none()
        )
        return _checked(engine, row, asked_at) if row else None


def _checked(engine: Engine, row: RowMapping, asked_at: float) -> Claim:
    """Return a claim from its row, and observe the clock that the row contains. Raise ClockStepped."""
    observe(engine, Reading(*(row[name] for name in Reading._fields)), asked_at)
    return Claim(**{name: value for name, value in row.items() if name not in Reading._fields})


def is_stored(engine: Engine, run: uuid.UUID) -> bool:
    """Return whether the database has this run."""
    with engine.connect() as connection:
        return connection.scalar(text("SELECT 1 FROM runs WHERE id = :run"), {"run": run}) is not None


def join_run(engine: Engine, run: uuid.UUID, number: int) -> Claim | None:
    """Return a claim for an assistant of a running slice. Return None if that slice has ended."""
    return with_steady_clock(engine, lambda: _join_run(engine, run, number))


def _join_run(engine: Engine, run: uuid.UUID, number: int) -> Claim | None:
    asked_at = monotonic_seconds()
    with engine.connect() as connection:
        row = (
            connection.execute(
                text(f"""
                    SELECT id AS run, claims AS number, claim_token AS token, source, kind, parameters, attempts,
                           request_id, traceparent, scheduled_for, {_HISTORY}, service_time() AS now,
                           NULL AS paused_until, NULL AS paused_reason, true AS assists, {READING}
                      FROM runs WHERE id = :run AND claims = :number AND status = 'running' AND NOT cancel_requested
                """),
                {"run": run, "number": number},
            )
            .mappings()
            .one_or_none()
        )
        return _checked(engine, row, asked_at) if row else None


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
                   service_time() + :gap, '"; next attempt at "YYYY-MM-DD"T"HH24:MI:SS"Z"'),
               next_attempt_at = service_time() + :gap""",
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
                       ) OR coalesce(max(rejected), 0) > :max_of_page
                         OR coalesce(sum(rejected), 0) > :max_of_run AS noteworthy
                  FROM pages WHERE run = :run
            """),
            {"run": claim.run, "max_of_page": MAX_REJECTS_PER_PAGE, "max_of_run": MAX_REJECTS_PER_RUN},
        ).one()
        if outcome.fetched and outcome.rejected == outcome.fetched:
            raise TerminalError(
                f"Every fetched item was rejected ({outcome.fetched}); see /runs/{claim.run}/rejects. "
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
        "status = :status, finished_at = service_time(), error_code = :code, error_detail = :detail",
        status=status,
        code=code,
        detail=safe_text(detail) if detail else None,
    )


def extend_pause(connection: Connection, source: str, gap: timedelta, reason: str) -> None:
    """Pause a source for `gap` from now. A longer pause, such as an operator's, stays unchanged."""
    connection.execute(
        text("""
            UPDATE sources SET paused_reason = :reason,
                   paused_until = CASE WHEN :gap < :until_resumed THEN service_time() + :gap END
             WHERE name = :source
               AND (paused_reason IS NULL OR paused_until < service_time() + :gap)
        """),
        {"source": source, "gap": gap, "reason": reason, "until_resumed": UNTIL_RESUMED},
    )


def _unless_cancelled(status: str) -> str:
    """Return SQL assignments that set a run's status, or that cancel the run if a cancellation was requested."""
    return f"""status = CASE WHEN cancel_requested THEN 'cancelled' ELSE '{status}' END,
               finished_at = CASE WHEN cancel_requested THEN service_time() END"""


def _move(connection: Connection, hold: Hold, assignments: str, **values: Any) -> None:
    result = connection.execute(
        text(f"UPDATE runs SET {assignments} WHERE {IS_HELD}"),
        {**hold.key, **values},
    )
    if result.rowcount == 0:
        raise ClaimLost(str(hold.run))
    # This waits for the pages that assistants are committing. Their later pages are rejected.
    connection.execute(
        text("""
            UPDATE checkpoints SET lease_run = NULL, lease_expires = NULL
             WHERE lease_run = :run AND lease_claim = :number
        """),
        {"run": hold.run, "number": hold.number},
    )
