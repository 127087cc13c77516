"""Replay stored pages of a source with its current mapping. No request is sent to an upstream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import structlog
from sqlalchemy import Engine, select

from sources.contract import Http, Page, Source, TerminalError, Window
from store.tables import PageRow, RunRow
from tasks.archive.raw_bodies import read_body
from tasks.archive.stored_pages import CorrectedSpans, PagePosition, StoredPages
from tasks.runs.claims import Claim
from tasks.runs.parameters import ReplayParameters

log = structlog.get_logger()

PARTITION = "replay:"
"""The only partition of a replay. Sources must not use names with this prefix (tasks/pipeline/slice.py)."""


def replay_source(engine: Engine, source: Source, claim: Claim) -> Source:
    """Return the source with one partition and a `fetch` that reads its stored pages.

    Raise TerminalError for a source with `replaces`: its stored pages may have quotes that were retracted since.
    """
    if source.replaces:
        raise TerminalError(
            f"{source.name}: declares `replaces`, so stored pages may have retracted quotes; request a full refresh",
            code="replay_refused",
        )
    chosen = ReplayParameters.of(claim.parameters)

    def fetch(window: Window, _: Http) -> Iterator[Page]:
        # The cursor of another replay belongs to other pages.
        resumed = window.cursor if window.cursor and window.cursor["run"] == window.run else None
        after, corrected = (resumed["after"], resumed["corrected"]) if resumed else (None, {})
        with engine.connect() as connection:
            requested_at = connection.execute(select(RunRow.requested_at).where(RunRow.id == claim.run)).scalar_one()
        stored = StoredPages(chosen, source.name, requested_at)
        _check_bodies(engine, source, stored)
        committed = after
        while True:
            if committed and chosen != ReplayParameters():
                corrected = _corrected(engine, claim, committed, corrected)
            with engine.connect() as connection:
                page = next(stored.read(connection, after, 1, corrected), None)
                body = page and read_body(connection, source.name, page.digest)
            if page is None:
                return
            after = page.position
            if body is not None:
                cursor = {"run": window.run, "after": after, "corrected": corrected}
                metadata = page.content_type, page.request, page.fetched_at
                yield Page(body, *metadata, cursor, corrects=page.corrects)
                committed = after

    return replace(source, fetch=fetch, partitions=lambda: (PARTITION,), is_shared=False, upstreams={})


def _corrected(engine: Engine, claim: Claim, position: PagePosition, corrected: CorrectedSpans) -> CorrectedSpans:
    """Add the span that the last committed page corrected to the spans corrected earlier.

    position: the position of the stored page that was read.
    """
    committed_at, _, partition, _ = position
    with engine.connect() as connection:
        row = connection.execute(
            select(PageRow.updated, PageRow.observed_from, PageRow.observed_until)
            .where(PageRow.run == claim.run, PageRow.partition == PARTITION)
            .order_by(PageRow.seq.desc())
            .limit(1)
        ).one_or_none()
    if row is None or not row.updated:
        return corrected
    first, last = row.observed_from.isoformat(), row.observed_until.isoformat()
    earlier = corrected.get(partition, {"since": committed_at, "first": first, "last": last})
    span = {"since": earlier["since"], "first": min(earlier["first"], first), "last": max(earlier["last"], last)}
    return {**corrected, partition: span}


def _check_bodies(engine: Engine, source: Source, stored: StoredPages) -> None:
    """Log the number of chosen pages whose body is no longer stored. Raise TerminalError if no body is stored."""
    with engine.connect() as connection:
        pages, missing_bodies = stored.count(connection)
    if missing_bodies:
        detail = f"{source.name}: the bodies of {missing_bodies} of the {pages} chosen pages are no longer stored"
        if missing_bodies == pages:
            raise TerminalError(f"{detail}; see {source.name.upper()}_BODIES_KEPT", code="bodies_missing")
        log.warning("bodies_missing", pages=pages, missing_bodies=missing_bodies, reason=detail)
