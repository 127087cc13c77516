"""Judge what a run brought: whether its status is earned, and whether the newest content of each partition was loaded.

A run that finds nothing new is judged by the newest content that earlier runs found. Otherwise a source whose newest
content was rejected would be healthy again as soon as nothing changes.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text

from sources.contract import RESERVED_PREFIXES, Source
from sources.reject_codes import MAX_REJECTS_PER_PAGE, MAX_REJECTS_PER_RUN
from tasks.runtime.safe_text import safe_text

QUOTED_REJECTS, QUOTED_CHARS = 3, 200
"""The number of rejects in the error of a run that loaded nothing, and the maximum characters of each."""

QUOTED_PARTITIONS = 3
"""The number of partitions that a detail names."""

# The counters of the newest page with the same body. An unchanged page counts no items itself, and a replay may have
# loaded the items that the page rejected.
_CONTENT = """
    SELECT page.run, page.partition, content.fetched, content.rejected, content.left_out
      FROM pages AS page
     CROSS JOIN LATERAL (SELECT fetched, rejected, left_out FROM pages AS same
                          WHERE same.source = page.source AND same.body_digest = page.body_digest
                            AND same.fetched > 0
                          ORDER BY same.committed_at DESC LIMIT 1) AS content
"""

# A page is poor if too few of its items became quotes.
_VERDICTS = f"""
    WITH judged AS MATERIALIZED (
        SELECT partition, run, sum(fetched) AS items, sum(rejected + left_out) AS lost,
               bool_or(fetched - rejected - left_out < :least_good * (fetched - left_out)) AS is_poor
          FROM ({_CONTENT} WHERE page.run = ANY(:runs)) AS content
         GROUP BY partition, run)
    UPDATE checkpoints AS c
       SET verdict = CASE WHEN lost = items OR is_poor THEN
               jsonb_build_object('run', judged.run, 'code', CASE WHEN lost = items THEN 'nothing_loaded'
                                  ELSE 'mostly_rejected' END, 'items', items, 'loaded', items - lost) END
      FROM judged
     WHERE c.source = :source AND c.partition = judged.partition
       AND (c.verdict IS NOT NULL OR lost = items OR is_poor)
"""


class Verdict(NamedTuple):
    """The status that a run earned. code and detail explain it, unless nothing is wrong."""

    status: str
    code: str | None = None
    detail: str | None = None


def record_verdicts(connection: Connection, source: str, run: uuid.UUID, kind: str, least_good: float) -> None:
    """Record for each partition whether the newest content could be loaded.

    Call this at the end of a live run, or of a replay, which may have loaded rejected items.
    """
    runs = [run] if kind == "live" else _runs_with_verdicts(connection, source)
    if kind in ("live", "replay") and runs:
        connection.execute(text(_VERDICTS), {"source": source, "runs": runs, "least_good": least_good})


def _runs_with_verdicts(connection: Connection, source: str) -> list[uuid.UUID]:
    runs = connection.scalars(
        text("SELECT DISTINCT verdict ->> 'run' FROM checkpoints WHERE source = :source AND verdict IS NOT NULL"),
        {"source": source},
    )
    return [uuid.UUID(run) for run in runs]


def judge_run(connection: Connection, run: uuid.UUID, kind: str, source: Source) -> Verdict:
    """Return the status of a run that has read everything. Call record_verdicts() before."""
    limits = {"max_of_page": MAX_REJECTS_PER_PAGE, "max_of_run": MAX_REJECTS_PER_RUN}
    items = connection.execute(_ITEMS, {"run": run, **limits}).one()
    if items.fetched and items.lost == items.fetched:
        return Verdict("failed", "nothing_loaded", _describe_nothing(connection, run, items))
    if kind == "live":
        verdict = _judge_partitions(connection, source) or _judge_expectation(connection, run, source)
        if verdict:
            return verdict
    # Some upstreams list coins without a price. These rejects are stored, but do not make the run `partial`.
    return Verdict("partial" if items.noteworthy else "succeeded")


_ITEMS = text("""
    SELECT coalesce(sum(fetched), 0) AS fetched, coalesce(sum(rejected), 0) AS rejected,
           coalesce(sum(rejected + left_out), 0) AS lost,
           EXISTS (SELECT FROM pages AS p
                     JOIN rejects AS r ON r.source = p.source AND r.digest = p.body_digest
                    WHERE p.run = :run AND p.rejected > 0 AND state = 'quarantined'
                      AND (jsonb_array_length(reasons) > 1 OR reasons->0->>'code' <> 'no_price')
           ) OR coalesce(max(rejected), 0) > :max_of_page OR coalesce(sum(rejected), 0) > :max_of_run AS noteworthy
      FROM pages WHERE run = :run
""")


def _describe_nothing(connection: Connection, run: uuid.UUID, items: Row[Any]) -> str:
    if not items.rejected:
        return f"The source left out every fetched item ({items.fetched})."
    left_out = f", {items.lost - items.rejected} left out" if items.lost > items.rejected else ""
    return (
        f"Every fetched item was rejected ({items.rejected}{left_out}); see /runs/{run}/rejects. "
        f"The first of them: {_first_rejects(connection, run)}"
    )


def _first_rejects(connection: Connection, run: uuid.UUID) -> str:
    """Return the beginnings of the run's first rejects, each with its first reason."""
    rows = connection.execute(
        text("""
            SELECT left(item, :max_chars) AS item, reasons -> 0 ->> 'detail' AS detail
              FROM pages AS p JOIN rejects AS r ON r.source = p.source AND r.digest = p.body_digest
             WHERE p.run = :run AND p.rejected > 0 ORDER BY p.partition, p.seq, r.item_index LIMIT :quoted
        """),
        {"run": run, "quoted": QUOTED_REJECTS, "max_chars": QUOTED_CHARS},
    )
    return "; ".join(safe_text(f"{row.item} ({row.detail})") for row in rows)


def _judge_partitions(connection: Connection, source: Source) -> Verdict | None:
    """Judge a run by the newest content of all partitions of its source, and by the partitions that are missing."""
    rows = connection.execute(
        text("""
            SELECT partition, verdict, missing_since FROM checkpoints
             WHERE source = :source AND NOT starts_with(partition, :replays) AND NOT starts_with(partition, :backfills)
             ORDER BY partition
        """),
        {"source": source.name, **dict(zip(("replays", "backfills"), RESERVED_PREFIXES, strict=True))},
    ).all()
    missing = [row.partition for row in rows if row.missing_since is not None]
    present = [row for row in rows if row.missing_since is None]
    judged = [row for row in present if row.verdict is not None]
    empty = [row for row in judged if row.verdict["code"] == "nothing_loaded"]
    if missing and not present:
        return Verdict("failed", "partitions_missing", describe_missing(source.name, missing))
    if empty:
        detail = _describe_rejected(empty, "could be loaded")
        return Verdict("failed" if len(empty) == len(present) else "partial", "nothing_loaded", detail)
    if judged:
        return Verdict("partial", "mostly_rejected", _describe_rejected(judged, "of most items could be loaded"))
    return Verdict("partial", "partitions_missing", describe_missing(source.name, missing)) if missing else None


def describe_missing(source: str, partitions: Sequence[str]) -> str:
    """Return a detail that names missing partitions, and says what to do."""
    count = f"{len(partitions)} partitions that were read before are" if len(partitions) > 1 else "A partition is"
    return (
        f"{count} missing: {_shortened(partitions)}. Is a folder not mounted? Put them back, or, if they are meant to "
        f"be gone, send DELETE /sources/{source}/missing-partitions. Their quotes stay."
    )


def _describe_rejected(rows: Sequence[Row[Any]], what: str) -> str:
    verdict = rows[0].verdict
    names = [row.partition for row in rows if row.partition]
    place = f" of {_shortened(names)}" if names else ""
    return (
        f"The newest content{place} is not loaded: {verdict['loaded']} of {verdict['items']} items {what}; "
        f"see /runs/{verdict['run']}/rejects."
    )


def _shortened(partitions: Sequence[str]) -> str:
    shown = ", ".join(safe_text(partition) for partition in partitions[:QUOTED_PARTITIONS])
    more = len(partitions) - QUOTED_PARTITIONS
    return f"{shown} and {more} more" if more > 0 else shown


def _judge_expectation(connection: Connection, run: uuid.UUID, source: Source) -> Verdict | None:
    """Compare the items of a run with the number that the source expects. A run without pages found nothing new."""
    if source.expects is None:
        return None
    pages, items = connection.execute(
        text(f"""
            SELECT (SELECT count(*) FROM pages WHERE run = :run),
                   (SELECT coalesce(sum(fetched - left_out), 0) FROM ({_CONTENT} WHERE page.run = :run) AS content)
        """),
        {"run": run},
    ).one()
    if not pages or items >= source.expects:
        return None
    return Verdict("partial", "too_few_items", f"{items} items, where the source expects {source.expects} or more.")
