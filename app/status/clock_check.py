"""Check for /health whether the service's clock agrees with the database's clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, text

from tasks.runtime.service_clock import CATCH_UP_RATE

MIN_DIFFERENCE = 1.0
"""Minimum seconds between the two clocks that degrade the health."""

_CORRECTION = text("SELECT clock_ahead(clock_timestamp()) AS left, since, ahead FROM clock")


def check_clock_difference(connection: Connection) -> dict[str, Any]:
    """Return the members of CheckSchema for the clock."""
    correction = connection.execute(_CORRECTION).one_or_none()
    if correction is None or correction.left < MIN_DIFFERENCE:
        return {"status": "ok"}
    end = correction.since + timedelta(seconds=correction.ahead / CATCH_UP_RATE)
    return {
        "status": "degraded",
        "detail": f"The database's clock went back; it showed {correction.since:%Y-%m-%dT%H:%M:%SZ} then. "
        f"The service's times are {correction.left:.0f} s ahead of it, until {end:%Y-%m-%dT%H:%M:%SZ}.",
    }
