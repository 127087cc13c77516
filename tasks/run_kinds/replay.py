"""Replay: a source's kept pages are read again with today's mapping, as a run of its own kind. No upstream is asked."""

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
"""No partition that a source names itself; see tasks/pipeline/slice.py."""


def replay_source(engine: Engine, source: Source, claim: Claim) -> Source:
    """The source as a replay has it: its pages come from the database, all else is as ever."""
    chosen = ReplayParameters.of(claim.parameters)

    def fetch(window: Window, _: Http) -> Iterator[Page]:
        # The cursor of another replay leads nowhere here.
        resumed = window.cursor if window.cursor and window.cursor["run"] == window.run else None
        after, corrected = (resumed["after"], resumed["corrected"]) if resumed else (None, {})
        with engine.connect() as connection:
            requested_at = connection.execute(select(RunRow.requested_at).where(RunRow.id == claim.run)).scalar_one()
        stored = StoredPages(chosen, source.name, requested_at)
        _say_what_is_lost(engine, source, stored)
        committed = after
        while True:
            if committed and chosen != ReplayParameters():
                corrected = _corrected(engine, claim, committed, corrected)
            with engine.connect() as connection:
                page = next(stored.read(connection, after, 1, corrected), None)
                body = page and read_body(connection, source.name, page.digest)
            if page is None:
                return
            after = page.place
            if body is not None:
                cursor = {"run": window.run, "after": after, "corrected": corrected}
                about = page.content_type, page.request, page.fetched_at
                yield Page(body, *about, cursor, corrects=page.corrects)
                committed = after

    return replace(source, fetch=fetch, partitions=lambda: (PARTITION,), is_shared=False, upstreams={})


def _corrected(engine: Engine, claim: Claim, place: PagePosition, corrected: CorrectedSpans) -> CorrectedSpans:
    """Where quotes were corrected, by what was committed before and by the newest page, which stands at this place."""
    committed_at, _, partition, _ = place
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
    known = corrected.get(partition, {"since": committed_at, "first": first, "last": last})
    span = {"since": known["since"], "first": min(known["first"], first), "last": max(known["last"], last)}
    return {**corrected, partition: span}


def _say_what_is_lost(engine: Engine, source: Source, stored: StoredPages) -> None:
    """Raises TerminalError where no body is kept of the pages that are asked for."""
    with engine.connect() as connection:
        pages, lost = stored.count(connection)
    if lost:
        detail = f"{source.name}: of {lost} of the {pages} pages asked for, the body is kept no more"
        if lost == pages:
            raise TerminalError(f"{detail}; see {source.name.upper()}_BODIES_KEPT", code="bodies_dropped")
        log.warning("bodies_dropped", pages=pages, lost=lost, reason=detail)
