"""Check what the database itself reports: a full disk, a set-back, unsafe settings, and violations of integrity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, text

_SET_BACK = text("""
    SELECT found_at, detail, string_agg(source, ', ' ORDER BY source) AS sources
      FROM anomalies WHERE kind = 'set_back' AND over_at IS NULL GROUP BY found_at, detail ORDER BY found_at
""")

_UNSAFE_SETTINGS = text("""
    SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name
""")


def check_database(connection: Connection, full_disk: Iterable[str]) -> dict[str, Any]:
    """Return the check of a database that responds. full_disk: sources paused because its disk is full."""
    problems = [*_full_disk(full_disk), *_set_backs(connection), *_violations(connection)]
    problems += _unsafe_settings(connection)
    return {"status": "degraded", "detail": " ".join(problems)} if problems else {"status": "ok"}


def _full_disk(sources: Iterable[str]) -> list[str]:
    names = ", ".join(sources)
    return [f"Its disk is full; paused sources: {names}."] if names else []


def _set_backs(connection: Connection) -> list[str]:
    return [
        f"It was set back (detected at {row.found_at:%Y-%m-%dT%H:%M:%SZ}): {row.detail}. Sources: {row.sources}."
        for row in connection.execute(_SET_BACK)
    ]


def _violations(connection: Connection) -> list[str]:
    query = text("SELECT name, violations, last_example FROM integrity WHERE violations > 0 ORDER BY name")
    return [
        f"Its data is inconsistent: {row.violations} {row.name.replace('_', ' ')}, such as {row.last_example}."
        for row in connection.execute(query)
    ]


def _unsafe_settings(connection: Connection) -> list[str]:
    return [
        f"Its setting {name} is off: a crash of its host can corrupt or lose committed data. Turn it on."
        for name in connection.scalars(_UNSAFE_SETTINGS)
    ]
