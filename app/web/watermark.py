"""Find the time before which every quote is visible, so that a client can continue from it."""

from __future__ import annotations

import time
from datetime import datetime

from sqlalchemy import Connection, text

from app.web.prepared import PreparedStatement

MAX_AGE = 1.0
"""Seconds that a value is reused. An old value stays valid, and the watermark lags by a second anyway."""

# Call the function behind pg_stat_activity, since the view takes three times as long.
_OLDEST_WRITE = PreparedStatement(
    text("""
        SELECT least(min(xact_start), clock_timestamp() - interval '1 second') FROM pg_stat_get_activity(NULL)
         WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND application_name NOT IN ('kasparro-web', 'kasparro-export', 'kasparro-health')
    """)
)


class Watermark:
    """The watermark of one database, read at most once a second."""

    def __init__(self) -> None:
        self._cached: tuple[datetime, float] | None = None

    def ingested_until(self, connection: Connection) -> datetime:
        """Return the time before which all quotes are visible. Call this before the rows are read.

        A quote's ingested_at is the start of the transaction that writes it, so the oldest open transaction is the
        limit. Subtracting a second covers a transaction that has started but is not in pg_stat_activity yet. The
        API's own sessions only read quotes, so they are excluded.
        """
        if self._cached and time.monotonic() < self._cached[1]:
            return self._cached[0]
        until: datetime = _OLDEST_WRITE.value(connection, {})
        self._cached = until, time.monotonic() + MAX_AGE
        return until
