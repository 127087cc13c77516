"""Read the item counters of a run's pages."""

from __future__ import annotations

from tests.tasks.conftest import Bench

COUNTERS = """
    SELECT sum(fetched) AS fetched, sum(inserted) AS inserted, sum(updated) AS updated, sum(unchanged) AS unchanged,
           sum(deduplicated) AS deduplicated, sum(rejected) AS rejected
      FROM pages WHERE run = :run
"""


def counters(bench: Bench, run: object) -> tuple[int, ...]:
    """Return the sums of fetched, inserted, updated, unchanged, deduplicated and rejected items over a run's pages."""
    return tuple(bench.rows(COUNTERS, run=run)[0].values())
