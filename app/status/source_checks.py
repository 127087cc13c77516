"""Check each source for /health: its last run, its lateness, its circuit breaker and its pause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from app.sources.recent_anomalies import recent_anomalies
from app.sources.run_history import run_histories
from app.sources.waiting_records import waiting_records
from settings import Settings
from sources.registry import BROKEN, SOURCES
from tasks.runtime.logs import hide_secrets
from tasks.upstream.circuit_breaker import CLOSED, BreakerState, read_breakers


class Pause(NamedTuple):
    """An active pause. until: the end of the pause, or None if it lasts until the source is resumed."""

    reason: str
    until: datetime | None


def active_pauses(connection: Connection) -> Mapping[str, Pause]:
    """Return the active pauses by source."""
    rows = connection.execute(
        text("""
            SELECT name, paused_reason, paused_until FROM sources
             WHERE paused_reason IS NOT NULL AND (paused_until IS NULL OR paused_until > service_time())
             ORDER BY name
        """)
    )
    return {row.name: Pause(row.paused_reason, row.paused_until) for row in rows}


def check_sources(connection: Connection, settings: Settings, pauses: Mapping[str, Pause]) -> dict[str, Any]:
    """Return the members of SourceCheckSchema for each source."""
    breakers = read_breakers(connection, settings)
    anomalies = recent_anomalies(connection, list(SOURCES))
    late_details = {row.source: row.detail for row in connection.execute(_LATE_SOURCES)}
    checks, histories = {}, run_histories(connection, [*SOURCES, *BROKEN])
    waiting = waiting_records(connection, [run["run"] for history in histories.values() for run in _last_runs(history)])
    for name, history in histories.items():
        check = _with_anomalies(_last_run_check(history), anomalies.get(name, []))
        check = _with_lateness(check, late_details.get(name))
        check = _with_breaker(check, breakers.get(name, CLOSED))
        # A file that is being written often ends in an incomplete record, so waiting records do not degrade the check.
        check = _with_defect(_with_pause(check, pauses.get(name)), name)
        checks[name] = check | {"waiting_records": waiting.get(name, [])}
    return checks


_LATE_SOURCES = text("SELECT source, detail FROM anomalies WHERE kind = 'late' AND over_at IS NULL")


def _last_runs(history: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the unfinished run and the last finished run, without those that do not exist."""
    return [run for run in (history["live_run"], _last_finished(history)) if run]


def _last_finished(history: Mapping[str, Any]) -> Mapping[str, Any] | None:
    finished = [run for run in (history["last_success"], history["last_failure"]) if run]
    return max(finished, key=lambda run: run["requested_at"], default=None)


def _last_run_check(history: Mapping[str, Any]) -> dict[str, Any]:
    success, last = history["last_success"], _last_finished(history)
    if last is None:
        return {"status": "unknown", "detail": "No run has finished yet.", "last_run_status": None}
    check = {"status": "ok", "last_run_status": last["status"], "last_seen": last["finished_at"]}
    if last is success and last["code"] is None:
        return check
    status = "is partial" if last is success else "failed"
    detail = f": {last['detail']}" if last["detail"] else "."
    return {**check, "status": "degraded", "detail": f"The last run {status}: {last['code']}{detail}"}


def _with_anomalies(check: dict[str, Any], details: Sequence[str]) -> dict[str, Any]:
    # The reason of a failed or partial run explains more.
    if not details or check["status"] == "degraded":
        return check
    more = f" and {len(details) - 1} more; see /anomalies" if len(details) > 1 else ""
    return {**check, "status": "degraded", "detail": f"The newest content is unusual: {details[0]}{more}."}


def _with_lateness(check: dict[str, Any], detail: str | None) -> dict[str, Any]:
    # The error of a failed run explains more than the fact that the source is late.
    if detail is None or check["status"] == "degraded":
        return check
    return {**check, "status": "degraded", "detail": f"It has fallen behind: {detail}."}


def _with_breaker(check: dict[str, Any], breaker: BreakerState) -> dict[str, Any]:
    if breaker.state == "closed":
        return check
    state = breaker.state.replace("_", "-")
    next_request = (
        f"no requests until {breaker.until:%Y-%m-%dT%H:%M:%SZ}" if breaker.until else "one trial request allowed"
    )
    detail = f"Circuit breaker {state} after {breaker.failures} consecutive failed requests: {next_request}."
    return {**check, "status": "degraded", "detail": detail}


def _with_defect(check: dict[str, Any], source: str) -> dict[str, Any]:
    # Nothing else matters for a source that cannot run.
    if source not in BROKEN:
        return check
    return {**check, "status": "degraded", "detail": f"Broken: {hide_secrets(BROKEN[source].detail)}"}


def _with_pause(check: dict[str, Any], pause: Pause | None) -> dict[str, Any]:
    # A pause by an operator also degrades the check, since a paused source loads no data.
    if pause is None:
        return check
    end = f"{pause.until:%Y-%m-%dT%H:%M:%SZ}" if pause.until else "it is resumed"
    detail = f"Paused until {end}: {pause.reason}"
    return {**check, "status": "degraded", "detail": detail, "paused_until": pause.until}
