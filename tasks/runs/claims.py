"""Move a run from state to state. Each move is a compare-and-swap: if no row changes, another worker has the run."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, RowMapping, text

from sources.contract import LEAST_GOOD, UNTIL_RESUMED, Source, TerminalError
from sources.registry import SOURCES
from tasks.runs.verdicts import Verdict, judge_run, record_verdicts
from tasks.runtime.safe_text import MAX_DETAIL_CHARS, safe_text
from tasks.runtime.service_clock import READING, Reading, monotonic_seconds, observe, with_steady_clock

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


class Configuration(NamedTuple):
    """The configuration of an upstream: its fingerprint, and its settings (sources/http/configuration.py)."""

    fingerprint: bytes
    settings: Sequence[str]


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


def complete_run(engine: Engine, claim: Claim, source: Source) -> Verdict:
    """End a run that has fetched everything. Return its verdict: its status, and the reason unless all is well.

    Raise TerminalError if the run failed, for example because every item was rejected.
    """
    with engine.begin() as connection:
        record_verdicts(connection, claim.source, claim.run, claim.kind, source.least_good)
        verdict = judge_run(connection, claim.run, claim.kind, source)
        if verdict.status == "failed":
            assert verdict.code
            raise TerminalError(str(verdict.detail), code=verdict.code)
        _finish(connection, claim, verdict.status, verdict.code, verdict.detail)
        return verdict


def fail_run(
    connection: Connection,
    hold: Hold,
    code: str,
    detail: str,
    pause: timedelta | None = None,
    configuration: Configuration | None = None,
) -> None:
    """End a run as failed. For a live run with `pause`, also pause its source, because the next run would fail too."""
    end_run(connection, hold, "failed", code, detail)
    if pause is not None and hold.kind == "live":
        extend_pause(connection, hold.source, pause, f"{code}: {detail}", configuration)


def end_run(
    connection: Connection, hold: Hold, status: str, code: str | None = None, detail: str | None = None
) -> None:
    """Move a run to a final status. The verdicts about its partitions stay, however it ended."""
    source = SOURCES.get(hold.source)
    record_verdicts(connection, hold.source, hold.run, hold.kind, source.least_good if source else LEAST_GOOD)
    _finish(connection, hold, status, code, detail)


def _finish(connection: Connection, hold: Hold, status: str, code: str | None, detail: str | None) -> None:
    _move(
        connection,
        hold,
        "status = :status, finished_at = service_time(), error_code = :code, error_detail = :detail",
        status=status,
        code=code,
        detail=safe_text(detail) if detail else None,
    )


def extend_pause(
    connection: Connection, source: str, gap: timedelta, reason: str, configuration: Configuration | None = None
) -> None:
    """Pause a source for `gap` from now. A longer pause, such as an operator's, stays unchanged.

    configuration: the configuration that caused the pause. Another one lifts it (tasks/runs/pausing.py).
    """
    connection.execute(
        text("""
            UPDATE sources SET paused_reason = :reason, paused_configuration = :fingerprint,
                   paused_until = CASE WHEN :gap < :until_resumed THEN service_time() + :gap END
             WHERE name = :source
               AND (paused_reason IS NULL OR paused_until < service_time() + :gap)
        """),
        {
            "source": source,
            "gap": gap,
            "reason": _with_remedy(source, reason, configuration.settings if configuration else ()),
            "fingerprint": configuration.fingerprint if configuration else None,
            "until_resumed": UNTIL_RESUMED,
        },
    )


def _with_remedy(source: str, reason: str, settings: Sequence[str]) -> str:
    """Return the reason of a pause with what ends it earlier."""
    names = f"{', '.join(settings[:-1])} or {settings[-1]}" if len(settings) > 1 else "".join(settings)
    change = f"change {names} and restart the workers, or " if names else ""
    remedy = f"; to end the pause, {change}POST /sources/{source}/resume"
    return safe_text(reason)[: MAX_DETAIL_CHARS - len(remedy)] + remedy


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
