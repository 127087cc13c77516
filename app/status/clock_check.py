"""Check for /health whether the service's clock agrees with the database's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, text

from tasks.runtime.service_clock import CATCH_UP_RATE

MIN_DIFFERENCE = 1.0
"""Minimum difference between the two clocks that degrades the health, in seconds."""

_CORRECTION = text("SELECT clock_ahead(clock_timestamp()) AS left, since, ahead FROM clock")


def check_clock_difference(connection: Connection) -> dict[str, Any]:
    """Return the members of CheckSchema for the clock."""
    correction = connection.execute(_CORRECTION).one_or_none()
    if correction is None or correction.left < MIN_DIFFERENCE:
        return {"status": "ok"}
    end = correction.since + timedelta(seconds=correction.ahead / CATCH_UP_RATE)
    return {
        "status": "degraded",
        "detail": f"The database's clock went back to {correction.since:%Y-%m-%dT%H:%M:%SZ}. The service's clock is "
        f"{correction.left:.0f} s ahead of it, and they agree again at {end:%Y-%m-%dT%H:%M:%SZ}. Check the time "
        "synchronization of the database's host.",
    }
