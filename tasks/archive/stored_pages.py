"""Find the stored pages that a replay reads again, in the order of their commits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, text

from tasks.runs.parameters import ReplayParameters

PagePosition = list[Any]
"""A page's position in the order of commits, as JSON: committed_at, run, partition, seq."""

CorrectedSpans = Mapping[str, Mapping[str, str]]
"""Spans of corrected quotes by partition: `since` (commit time), `first` and `last` (observation times)."""

# Exclude unchanged pages, whose body was loaded by an earlier page.
_STORED = """
      FROM pages AS p
      JOIN runs AS r ON r.id = p.run
      JOIN raw_bodies AS b ON b.source = p.source AND b.digest = p.body_digest
     WHERE p.source = :source AND r.kind <> 'replay' AND p.committed_at < CAST(:before AS timestamptz)
       AND NOT (p.fetched = 0 AND EXISTS (
                SELECT FROM pages AS e JOIN runs AS er ON er.id = e.run
                 WHERE e.source = p.source AND e.body_digest = p.body_digest AND e.fetched > 0 AND er.kind <> 'replay'))
"""

# Include rejects that this replay has released: their body may belong to several pages.
_REJECTED = """
    EXISTS (SELECT FROM rejects AS x WHERE x.source = p.source AND x.digest = p.body_digest
               AND (x.state = 'quarantined' OR x.replayed_at >= CAST(:before AS timestamptz))
               AND x.reasons @> CAST(:reasons AS jsonb))
"""

# The pages of a replay run are the pages that it read again.
_FROM_RUN = """
    (p.run = CAST(:run AS uuid) OR p.body_digest IN (
        SELECT o.body_digest FROM pages AS o JOIN runs AS l ON l.id = o.run
         WHERE o.run = CAST(:run AS uuid) AND l.kind = 'replay'))
"""

_CONDITIONS = {
    "run": _FROM_RUN,
    "fetched_from": "p.fetched_at >= CAST(:fetched_from AS timestamptz)",
    "fetched_to": "p.fetched_at < CAST(:fetched_to AS timestamptz)",
    "body": "p.body_digest = decode(:body, 'hex')",
}

_CORRECTED = """
    EXISTS (SELECT FROM jsonb_to_recordset(CAST(:corrected AS jsonb))
                     AS c(partition text, since timestamptz, first timestamptz, last timestamptz)
             WHERE c.partition = p.partition AND c.since < p.committed_at
               AND coalesce(p.observed_from <= c.last AND p.observed_until >= c.first, p.fetched > 0))
"""

_POSITION = "(p.committed_at, p.run, p.partition, p.seq)"
_AFTER = "(CAST(:committed_at AS timestamptz), CAST(:after_run AS uuid), :partition, :seq)"


class StoredPage(NamedTuple):
    """A page's row. has_body: whether its body is still stored. corrects: whether the page may correct quotes."""

    position: PagePosition
    request: dict[str, Any]
    fetched_at: datetime
    digest: bytes
    content_type: str
    has_body: bool
    corrects: bool


@dataclass(frozen=True)
class StoredPages:
    """The stored pages that a replay of a source chose.

    before: exclude pages committed at or after this time (aware).
    """

    chosen: ReplayParameters
    source: str
    before: datetime

    def read(
        self,
        connection: Connection,
        after: PagePosition | None,
        limit: int,
        corrected: CorrectedSpans = MappingProxyType({}),
    ) -> Iterator[StoredPage]:
        """Yield the first `limit` pages after a position, in the order of their commits.

        corrected: spans of quotes that the replay corrected. Later pages with quotes in these spans are included, even
        if the replay did not choose them.
        """
        values = dict(zip(("committed_at", "after_run", "partition", "seq"), after or (), strict=False))
        beyond = f"AND {_POSITION} > {_AFTER}" if after else ""
        rows = connection.execute(
            text(f"""
                SELECT p.committed_at, p.run, p.partition, p.seq, p.request, p.fetched_at, p.body_digest,
                       b.content_type, b.body IS NOT NULL AS has_body,
                       r.kind <> 'backfill' OR r.parameters->>'existing' = 'repeat' AS corrects
                {_STORED} AND ({self._conditions}{f" OR {_CORRECTED}" if corrected else ""}) {beyond}
                 ORDER BY p.committed_at, p.run, p.partition, p.seq LIMIT :limit
            """),
            {
                **self._values,
                **values,
                "limit": limit,
                "corrected": json.dumps([{"partition": name, **span} for name, span in corrected.items()]),
            },
        )
        for row in rows:
            position = [row.committed_at.isoformat(), str(row.run), row.partition, row.seq]
            about = row.content_type, row.has_body, row.corrects
            yield StoredPage(position, row.request, row.fetched_at, bytes(row.body_digest), *about)

    def count(self, connection: Connection) -> tuple[int, int]:
        """Return the number of pages, and the number of those whose body is no longer stored."""
        missing_bodies = "count(*) FILTER (WHERE b.body IS NULL) AS missing_bodies"
        row = connection.execute(
            text(f"SELECT count(*) AS pages, {missing_bodies} {_STORED} AND ({self._conditions})"), self._values
        ).one()
        return row.pages, row.missing_bodies

    @property
    def _conditions(self) -> str:
        conditions = [sql for name, sql in _CONDITIONS.items() if getattr(self.chosen, name) is not None]
        return " AND ".join(["true", *conditions, *([_REJECTED] if self.chosen.rejected else [])])

    @property
    def _values(self) -> dict[str, Any]:
        reason = {name: value for name in ("code", "field") if (value := getattr(self.chosen, name)) is not None}
        return {
            **{name: getattr(self.chosen, name) for name in _CONDITIONS},
            "source": self.source,
            "before": self.before,
            "reasons": json.dumps([reason] if reason else []),
        }
