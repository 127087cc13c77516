"""Stop requests to a host after repeated failures. Each source has one circuit breaker, shared by all workers.

The state is stored in the source's row. Closed: every request is allowed. Open: no request is allowed for
BREAKER_COOLDOWN seconds. Half-open: one trial request is allowed, across all workers. A response to it closes the
breaker. A failure opens the breaker again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, text

from settings import Settings
from sources.contract import TransientError

# A time too far in the future was stored before the clock was set back. It is ignored.
_IS_COOLING = "(breaker_opened_at BETWEEN service_time() - :cooldown AND service_time())"
_HAS_TRIAL = "(breaker_probe_until BETWEEN service_time() AND service_time() + :deadline)"

# The SELECT reads the row's state before the UPDATE. If the breaker is closed, nothing is written.
_RESERVE_REQUEST = text(f"""
    WITH trial AS (
        UPDATE sources SET breaker_probe_until = service_time() + :deadline
         WHERE name = :source AND NOT {_IS_COOLING} AND {_HAS_TRIAL} IS NOT TRUE
        RETURNING breaker_probe_until)
    SELECT failures, is_closed, probe, until, extract(epoch FROM until - service_time())::float8 AS seconds_left
      FROM (SELECT breaker_failures AS failures, breaker_opened_at IS NULL AS is_closed,
                   (SELECT breaker_probe_until FROM trial) AS probe,
                   greatest(CASE WHEN {_IS_COOLING} THEN breaker_opened_at + :cooldown END,
                            CASE WHEN {_HAS_TRIAL} THEN breaker_probe_until END,
                            service_time() + interval '1 second') AS until
              FROM sources WHERE name = :source) AS breaker
""")

# Only the current trial can change an open breaker. Late results are ignored: the request started before the breaker
# opened, or the trial took longer than the deadline.
_MAY_CHANGE = "name = :source AND (breaker_opened_at IS NULL OR breaker_probe_until = CAST(:probe AS timestamptz))"

_CLOSE = text(f"""
    UPDATE sources SET breaker_failures = 0, breaker_opened_at = NULL, breaker_probe_until = NULL
     WHERE {_MAY_CHANGE}
""")

_COUNT_FAILURE = text(f"""
    UPDATE sources
       SET breaker_failures = breaker_failures + 1, breaker_probe_until = NULL,
           breaker_opened_at = CASE WHEN breaker_failures + 1 >= :limit THEN service_time() END
     WHERE {_MAY_CHANGE}
""")

_WITHDRAW_TRIAL = text("""
    UPDATE sources SET breaker_probe_until = NULL
     WHERE name = :source AND breaker_probe_until = CAST(:probe AS timestamptz)
""")


class CircuitBreaker:
    """Check and update a source's circuit breaker for one client, which makes one request at a time."""

    def __init__(self, engine: Engine, source: str, settings: Settings):
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._source, self._limit = source, settings.breaker_failures
        self._intervals = _intervals(settings)
        self._failures = 0
        # The deadline of this client's trial request, or None. It also identifies the trial.
        self._trial: datetime | None = None

    def admit(self) -> None:
        """Allow the next request.

        Raise TransientError if the breaker is open or another worker makes the trial request.
        """
        with self._engine.connect() as connection:
            row = connection.execute(_RESERVE_REQUEST, {"source": self._source, **self._intervals}).one()
        self._failures, self._trial = row.failures, row.probe
        if not row.is_closed and row.probe is None:
            raise TransientError(
                f"{self._source}: circuit breaker open: {row.failures} requests in a row failed; "
                f"no request before {row.until:%Y-%m-%dT%H:%M:%SZ}",
                code="breaker_open",
                retry_after=row.seconds_left,
                is_failure=False,
            )

    def record_result(self, alive: bool) -> None:
        """Record the result of a request. alive: whether the host responded, even with a refusal."""
        if not alive:
            self._update(_COUNT_FAILURE, limit=self._limit)
        elif self._failures:
            self._update(_CLOSE)

    def withdraw(self) -> None:
        """Withdraw a request that will not be made, so that another worker may make the trial."""
        if self._trial is not None:
            self._update(_WITHDRAW_TRIAL)

    def _update(self, statement: Any, **values: Any) -> None:
        with self._engine.connect() as connection:
            connection.execute(statement, {"source": self._source, "probe": self._trial, **values})


@dataclass(frozen=True)
class BreakerState:
    """The state of a circuit breaker. until: the earliest time of the next request. None: now."""

    state: Literal["closed", "open", "half_open"]
    failures: int
    until: datetime | None


CLOSED: Final = BreakerState("closed", 0, None)


def read_breakers(connection: Connection, settings: Settings) -> Mapping[str, BreakerState]:
    """Return the state of each source's circuit breaker, for sources that have a row."""
    rows = connection.execute(
        text(f"""
            SELECT name, breaker_failures AS failures,
                   CASE WHEN breaker_opened_at IS NULL THEN 'closed' WHEN {_IS_COOLING} THEN 'open'
                        ELSE 'half_open' END AS state,
                   CASE WHEN {_IS_COOLING} THEN breaker_opened_at + :cooldown
                        WHEN {_HAS_TRIAL} THEN breaker_probe_until END AS until
              FROM sources
        """),
        _intervals(settings),
    )
    return {row.name: BreakerState(row.state, row.failures, row.until) for row in rows}


def _intervals(settings: Settings) -> dict[str, timedelta]:
    """Return the intervals. deadline: the time after which another worker may make the trial if its worker died."""
    return {
        "cooldown": timedelta(seconds=settings.breaker_cooldown),
        "deadline": timedelta(seconds=settings.request_deadline),
    }
