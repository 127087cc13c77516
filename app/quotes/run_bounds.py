"""What a run's pages tell of the quotes that it wrote: quotes have no index on run, but one on the time of writing."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from app.web.problems import invalid_parameter

GATHERED = 20_000
"""Up to so many rows are read together and sorted: beyond, they are looked for in their order."""


class RunBounds(NamedTuple):
    """started, finished: when they were written. rows: how many at most, since others may have corrected them.

    first, last: between which times they are. listings: what they are of, or more. Each None where it is not known.
    """

    started: datetime
    finished: datetime
    rows: int
    first: datetime | None
    last: datetime | None
    listings: list[int] | None

    @property
    def bounds(self) -> dict[str, datetime]:
        """What leads to them quickly: a planner that is told more may take the longer way."""
        bounds: dict[str, datetime | None] = {"run_first": self.first, "run_last": self.last}
        if self.are_few or self.listings is None:
            bounds |= {"run_started": self.started, "run_finished": self.finished}
        return {name: time for name, time in bounds.items() if time is not None}

    @property
    def are_few(self) -> bool:
        return self.rows <= GATHERED


_FIND = text("""
    WITH wrote AS (SELECT * FROM pages WHERE run = :run AND inserted + updated > 0)
    SELECT coalesce(started_at, clock_timestamp()) AS started, coalesce(finished_at, clock_timestamp()) AS finished,
           told.*, CASE WHEN all_listed THEN ARRAY(SELECT DISTINCT unnest(listings) FROM wrote) END AS listings
      FROM runs
     CROSS JOIN (SELECT coalesce(sum(inserted + updated), 0)::bigint AS rows,
                        CASE WHEN every(observed_from IS NOT NULL) THEN min(observed_from) END AS first,
                        CASE WHEN every(observed_until IS NOT NULL) THEN max(observed_until) END AS last,
                        every(listings IS NOT NULL) AS all_listed
                   FROM wrote) AS told
     WHERE id = :run
""")


def find_run_bounds(connection: Connection, run: UUID) -> RunBounds:
    """Raises a Problem where there is no such run."""
    found = connection.execute(_FIND, {"run": run}).mappings().one_or_none()
    if found is None:
        raise invalid_parameter("run", f"there is no run {run}")
    return RunBounds(**{name: found[name] for name in RunBounds._fields})
