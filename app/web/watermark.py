"""Find the time before which every quote is visible, so that a client can continue from it."""

from __future__ import annotations

import time
from datetime import datetime

from sqlalchemy import Connection, text

from app.web.prepared import PreparedStatement
from tasks.runtime.service_clock import NEWEST_STORED_TIME

MAX_AGE = 1.0
"""Seconds that a value is reused. An old value stays valid, and the watermark lags by a second anyway."""

# Call the function behind pg_stat_activity, since the view takes three times as long. Only the service's own sessions
# write quotes. A transaction from before the last correction of the clock has uncorrected times: it began before the
# correction, or its id is older than that of the clock's row. The 5 seconds cover a correction that was not committed
# yet when the transaction began.
_WATERMARK = PreparedStatement(
    text(f"""
        SELECT least(
            (SELECT min(xact_start + make_interval(secs =>
                        CASE WHEN xact_start < since + interval '5 seconds' OR age(backend_xid) > age(clock.xmin)
                             THEN 0 ELSE clock_ahead(clock_timestamp()) END))
               FROM pg_stat_get_activity(NULL) LEFT JOIN clock ON true
              WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND starts_with(application_name, 'kasparro-')
                AND application_name NOT IN ('kasparro-web', 'kasparro-export', 'kasparro-health')),
            service_time() - interval '1 second',
            {NEWEST_STORED_TIME})
    """)
)


class Watermark:
    """The watermark of one database, read at most once a second."""

    def __init__(self) -> None:
        self._cached: tuple[datetime, float] | None = None

    def ingested_until(self, connection: Connection) -> datetime:
        """Return the time before which all quotes are visible. Call this before the rows are read.

        A quote's ingested_at is never earlier than the start of the transaction that writes it. The oldest open
        transaction is therefore the limit. Subtracting a second covers a transaction that has started but is not in
        pg_stat_activity yet. The API's own sessions only read quotes, so they are excluded.

        The newest stored time is a limit, too. If the database's clock goes back, a process that has not read the
        clock before continues after the newest stored time.
        """
        if self._cached and time.monotonic() < self._cached[1]:
            return self._cached[0]
        until: datetime = _WATERMARK.value(connection, {})
        self._cached = until, time.monotonic() + MAX_AGE
        return until
