"""Show the service's clock, or set it to Postgres's corrected clock: `python -m tasks clock [--accept]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, Engine, text

from settings import get_settings
from store.engine import application_name, make_engine
from store.errors import describe
from tasks.runtime.database import WORKER
from tasks.runtime.retry import DATABASE_ERRORS
from tasks.runtime.service_clock import CATCH_UP_RATE, lock_clock

MOMENTS: Mapping[str, tuple[str, ...]] = {
    "anomalies": ("found_at", "over_at"),
    "assets": ("created_at",),
    "candidates": ("found_at",),
    "checkpoints": ("updated_at", "failed_at", "missing_since"),
    "decisions": ("decided_at",),
    "drift": ("seen_at", "last_seen_at", "accepted_at"),
    "heartbeats": ("beaten_at",),
    "integrity": ("completed_at",),
    "listings": ("created_at",),
    "pages": ("fetched_at", "committed_at"),
    "quotes": ("fetched_at", "ingested_at"),
    "raw_bodies": ("received_at",),
    "rejects": ("rejected_at", "replayed_at"),
    "runs": ("requested_at", "claimed_at", "published_at", "started_at", "finished_at", "judged_at"),
    "shapes": ("created_at",),
    "sources": ("breaker_opened_at",),
    "timelines": ("began_at",),
}
"""The times at which something happened. A time in the future becomes the current time. All other times are earlier, so
no two fetches change their order."""

DEADLINES: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("lease_expires",),
    "idempotency_keys": ("expires_at",),
    "runs": ("next_attempt_at",),
    "sources": ("paused_until", "breaker_probe_until"),
}
"""The times at which something ends. Subtract the seconds that the clock was ahead from each time in the future."""

SLOTS: Mapping[str, str] = {"runs": "scheduled_for", "sources": "last_slot"}
"""The slots. Set each slot in the future to null. Otherwise beat would treat it as already requested when it is due."""


class WorkersRunning(Exception):
    """Workers, control or beat are connected to Postgres. They would treat the accepted clock as a step back."""


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    engine = make_engine(get_settings().database_url, "clock")
    try:
        if options.accept:
            sys.stdout.write(f"The service's clock was {accept_clock(engine):.1f} s ahead, and now agrees.\n")
        else:
            sys.stdout.write(describe_clock(engine))
    except WorkersRunning as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except DATABASE_ERRORS as error:
        sys.stderr.write(f"Nothing was changed: {describe(error)}.\n")
        return 1
    finally:
        engine.dispose()
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks clock", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accept", action="store_true", help="accept the clock of Postgres; stop all workers first")
    return parser


def describe_clock(engine: Engine) -> str:
    """Return both clocks, and when they will agree."""
    with engine.connect() as connection:
        wall, ahead = _read(connection)
    line = f"Postgres: {wall:%Y-%m-%dT%H:%M:%SZ}. The service's clock is {ahead:.1f} s ahead"
    return f"{line}, and agrees in {ahead / CATCH_UP_RATE:.0f} s.\n" if ahead else f"{line}.\n"


def accept_clock(engine: Engine) -> float:
    """Set the service's clock to that of Postgres, and correct all stored times in the future.

    Return the seconds by which the service's clock was ahead. Raise WorkersRunning if a worker, control or beat is
    connected.
    """
    with engine.begin() as connection:
        lock_clock(connection)
        workers = connection.scalar(
            text("""
                SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = :name
            """),
            {"name": application_name(WORKER)},
        )
        if workers:
            raise WorkersRunning(
                f"Workers, control or beat are still connected to Postgres (database sessions: {workers}). "
                "Stop these processes first."
            )
        wall, ahead = _read(connection)
        connection.execute(text("DELETE FROM clock"))
        values = {"wall": wall, "ahead": ahead}
        for table, columns in MOMENTS.items():
            for column in columns:
                _update(connection, table, column, ":wall", values)
        for table, columns in DEADLINES.items():
            for column in columns:
                _update(connection, table, column, f"{column} - make_interval(secs => :ahead)", values)
        for table, column in SLOTS.items():
            _update(connection, table, column, "NULL", values)
        # Responses that clients and the API have cached contain the wrong times.
        connection.execute(
            text("""
                INSERT INTO revisions (part, number) VALUES ('clock', 1)
                ON CONFLICT (part) DO UPDATE SET number = revisions.number + 1
            """)
        )
    return ahead


def _read(connection: Connection) -> tuple[datetime, float]:
    wall, ahead = connection.execute(
        text("SELECT wall, clock_ahead(wall) FROM (SELECT clock_timestamp() AS wall OFFSET 0) AS now")
    ).one()
    return wall, ahead


def _update(connection: Connection, table: str, column: str, value: str, values: Mapping[str, object]) -> None:
    connection.execute(text(f"UPDATE {table} SET {column} = {value} WHERE {column} > :wall"), values)
