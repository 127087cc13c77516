"""Find the times and listings that limit the search for a run's quotes, as its pages recorded them.

Quotes have no index on their run. They have indexes on their times of writing and observation, and on their listing.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from app.web.problems import invalid_parameter

MAX_SORTED_ROWS = 20_000
"""A run of up to this many rows is read completely and then sorted. A larger run is read in the order of the list."""


class RunBounds(NamedTuple):
    """Bounds of the quotes that a run wrote.

    started, finished: start and end of the run; the current time if the run has none.
    rows: maximum number of quotes, since later runs may have corrected some.
    first, last: first and last observation time, None if unknown. listings: ids of the listings, None if unknown.
    """

    started: datetime
    finished: datetime
    rows: int
    first: datetime | None
    last: datetime | None
    listings: list[int] | None

    @property
    def bounds(self) -> dict[str, datetime]:
        """Return the bounds for the query, by name. With more conditions, the planner can choose a slower plan."""
        bounds: dict[str, datetime | None] = {"run_first": self.first, "run_last": self.last}
        if self.is_small or self.listings is None:
            bounds |= {"run_started": self.started, "run_finished": self.finished}
        return {name: time for name, time in bounds.items() if time is not None}

    @property
    def is_small(self) -> bool:
        return self.rows <= MAX_SORTED_ROWS


_FIND = text("""
    WITH wrote AS (SELECT * FROM pages WHERE run = :run AND inserted + updated > 0)
    SELECT coalesce(started_at, service_time()) AS started, coalesce(finished_at, service_time()) AS finished,
           recorded.*, CASE WHEN all_listed THEN ARRAY(SELECT DISTINCT unnest(listings) FROM wrote) END AS listings
      FROM runs
     CROSS JOIN (SELECT coalesce(sum(inserted + updated), 0)::bigint AS rows,
                        CASE WHEN every(observed_from IS NOT NULL) THEN min(observed_from) END AS first,
                        CASE WHEN every(observed_until IS NOT NULL) THEN max(observed_until) END AS last,
                        every(listings IS NOT NULL) AS all_listed
                   FROM wrote) AS recorded
     WHERE id = :run
""")


def find_run_bounds(connection: Connection, run: UUID) -> RunBounds:
    """Return the bounds of a run. Raise a Problem if there is no such run."""
    row = connection.execute(_FIND, {"run": run}).mappings().one_or_none()
    if row is None:
        raise invalid_parameter("run", f"there is no run {run}")
    return RunBounds(**{name: row[name] for name in RunBounds._fields})
