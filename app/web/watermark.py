"""The time up to which everything has been written: from there a reader goes on without missing a row."""

from __future__ import annotations

import time
from datetime import datetime

from sqlalchemy import Connection, text

from app.web.prepared import PreparedStatement

AGE = 1.0
"""Seconds; what was true of it once stays true, and a reader is given the last second again anyway."""

# Of the function below the view pg_stat_activity, which takes three times as long.
_OLDEST_WRITE = PreparedStatement(
    text("""
        SELECT least(min(xact_start), clock_timestamp() - interval '1 second') FROM pg_stat_get_activity(NULL)
         WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND application_name NOT IN ('kasparro-web', 'kasparro-export', 'kasparro-health')
    """)
)


class Watermark:
    """Of one database, asked for at most once a second."""

    def __init__(self) -> None:
        self._known: tuple[datetime, float] | None = None

    def ingested_until(self, connection: Connection) -> datetime:
        """The time before which nothing can be written any more; to be asked for before the rows are read.

        A quote's ingested_at is the start of the transaction that writes it, so the oldest one still open is the limit;
        the second covers one that has begun but is not to be seen in pg_stat_activity yet. Our own sessions only read
        quotes.
        """
        if self._known and time.monotonic() < self._known[1]:
            return self._known[0]
        until: datetime = _OLDEST_WRITE.value(connection, {})
        self._known = until, time.monotonic() + AGE
        return until
