"""The circuit breaker of a source's host: some failures in a row open it, then one worker at a time tries the host.

It stands in the source's row, so all workers share it. Closed: every call is let through. Open: none is, for
BREAKER_COOLDOWN seconds. Half-open: one call is, over all workers; its answer closes the breaker, its failure opens
it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection, Engine, text

from settings import Settings
from sources.contract import TransientError

# A time that lies too far ahead is of a clock that was set back since: it holds nobody up.
_COOLS = "(breaker_opened_at BETWEEN clock_timestamp() - :cooldown AND clock_timestamp())"
_IS_PROBED = "(breaker_probe_until BETWEEN clock_timestamp() AND clock_timestamp() + :deadline)"

# One statement, and for a closed breaker one that writes nothing. What the SELECT sees is from before the UPDATE.
_ADMIT = text(f"""
    WITH taken AS (
        UPDATE sources SET breaker_probe_until = clock_timestamp() + :deadline
         WHERE name = :source AND NOT {_COOLS} AND {_IS_PROBED} IS NOT TRUE
        RETURNING breaker_probe_until)
    SELECT failures, is_closed, probe, until, extract(epoch FROM until - clock_timestamp())::float8 AS seconds_left
      FROM (SELECT breaker_failures AS failures, breaker_opened_at IS NULL AS is_closed,
                   (SELECT breaker_probe_until FROM taken) AS probe,
                   greatest(CASE WHEN {_COOLS} THEN breaker_opened_at + :cooldown END,
                            CASE WHEN {_IS_PROBED} THEN breaker_probe_until END,
                            clock_timestamp() + interval '1 second') AS until
              FROM sources WHERE name = :source) AS breaker
""")

# A late word of a call from before it opened moves an open breaker as little as that of a probe which took too long.
_OURS_TO_MOVE = "name = :source AND (breaker_opened_at IS NULL OR breaker_probe_until = CAST(:probe AS timestamptz))"

_CLOSE = text(f"""
    UPDATE sources SET breaker_failures = 0, breaker_opened_at = NULL, breaker_probe_until = NULL
     WHERE {_OURS_TO_MOVE}
""")

_COUNT_FAILURE = text(f"""
    UPDATE sources
       SET breaker_failures = breaker_failures + 1, breaker_probe_until = NULL,
           breaker_opened_at = CASE WHEN breaker_failures + 1 >= :limit THEN clock_timestamp() END
     WHERE {_OURS_TO_MOVE}
""")

_GIVE_PROBE_BACK = text("""
    UPDATE sources SET breaker_probe_until = NULL
     WHERE name = :source AND breaker_probe_until = CAST(:probe AS timestamptz)
""")


class CircuitBreaker:
    """One client's way through the breaker of its source, for one call after the other."""

    def __init__(self, engine: Engine, source: str, settings: Settings):
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._source, self._limit = source, settings.breaker_failures
        self._times = _times(settings)
        self._failures = 0
        # Until when the others are kept out for our probe: its value tells our probe from all others.
        self._probe: datetime | None = None

    def admit(self) -> None:
        """Ask before each call; raises TransientError while calls are held back."""
        with self._engine.connect() as connection:
            row = connection.execute(_ADMIT, {"source": self._source, **self._times}).one()
        self._failures, self._probe = row.failures, row.probe
        if not row.is_closed and row.probe is None:
            raise TransientError(
                f"{self._source}: {row.failures} requests in a row failed; no more are made "
                f"until {row.until:%Y-%m-%dT%H:%M:%SZ}",
                code="breaker_open",
                retry_after=row.seconds_left,
                is_failure=False,
            )

    def answered(self, alive: bool) -> None:
        """Tell after each call whether the host gave an answer, a refusal included."""
        if not alive:
            self._move(_COUNT_FAILURE, limit=self._limit)
        elif self._failures:
            self._move(_CLOSE)

    def withdraw(self) -> None:
        """Tell that the call which was let through is not made after all."""
        if self._probe is not None:
            self._move(_GIVE_PROBE_BACK)

    def _move(self, statement: Any, **values: Any) -> None:
        with self._engine.connect() as connection:
            connection.execute(statement, {"source": self._source, "probe": self._probe, **values})


@dataclass(frozen=True)
class BreakerState:
    """until: when the next call may be made; None where one may be made now."""

    state: Literal["closed", "open", "half_open"]
    failures: int
    until: datetime | None


CLOSED: Final = BreakerState("closed", 0, None)


def read_breakers(connection: Connection, settings: Settings) -> Mapping[str, BreakerState]:
    """By source, of those that have a row, how its breaker stands."""
    rows = connection.execute(
        text(f"""
            SELECT name, breaker_failures AS failures,
                   CASE WHEN breaker_opened_at IS NULL THEN 'closed' WHEN {_COOLS} THEN 'open'
                        ELSE 'half_open' END AS state,
                   CASE WHEN {_COOLS} THEN breaker_opened_at + :cooldown
                        WHEN {_IS_PROBED} THEN breaker_probe_until END AS until
              FROM sources
        """),
        _times(settings),
    )
    return {row.name: BreakerState(row.state, row.failures, row.until) for row in rows}


def _times(settings: Settings) -> dict[str, timedelta]:
    """deadline: so long a probe keeps the others out, should its worker die."""
    return {
        "cooldown": timedelta(seconds=settings.breaker_cooldown),
        "deadline": timedelta(seconds=settings.request_deadline),
    }
