"""Replay: a source's kept pages are read again with today's mapping, as a run of its own kind. No upstream is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy import Engine, select

from sources.contract import Http, Page, Source, TerminalError, Window
from store.tables import Run
from tasks.bodies import read_body
from tasks.claims import Claim
from tasks.stored import Stored, StoredPage

log = structlog.get_logger()

PARTITION = "replay:"
"""No partition that a source names itself; see tasks/pipeline.py."""

AT_ONCE = 100
"""Pages that are looked up together; each body is read by itself."""


def replayed(engine: Engine, source: Source, claim: Claim) -> Source:
    """The source as a replay has it: its pages come from the database, all else is as ever."""
    stored = Stored.of(claim.parameters)

    def fetch(window: Window, _: Http) -> Iterator[Page]:
        # The cursor of another replay leads nowhere here.
        after = window.cursor["after"] if window.cursor and window.cursor["run"] == window.run else None
        with engine.connect() as connection:
            requested_at = connection.execute(select(Run.requested_at).where(Run.id == claim.run)).scalar_one()
        _say_what_is_lost(engine, source, stored, requested_at)
        while pages := _next(engine, source, stored, requested_at, after):
            for page in pages:
                after = page.place
                body = _body(engine, source, page)
                if body is not None:
                    cursor = {"run": window.run, "after": after}
                    yield Page(body, page.content_type, page.request, page.fetched_at, cursor)

    return replace(source, fetch=fetch, partitions=lambda: (PARTITION,), is_shared=False, upstreams={})


def _next(
    engine: Engine, source: Source, stored: Stored, before: datetime, after: list[object] | None
) -> list[StoredPage]:
    with engine.connect() as connection:
        return list(stored.pages(connection, source.name, before, after, AT_ONCE))


def _body(engine: Engine, source: Source, page: StoredPage) -> bytes | None:
    """None where it is kept no more: retention may drop it at any time."""
    if not page.has_body:
        return None
    with engine.connect() as connection:
        return read_body(connection, source.name, page.digest)


def _say_what_is_lost(engine: Engine, source: Source, stored: Stored, before: datetime) -> None:
    """Raises TerminalError where no body is kept of the pages that are asked for."""
    with engine.connect() as connection:
        pages, lost = stored.count(connection, source.name, before)
    if lost:
        detail = f"{source.name}: of {lost} of the {pages} pages asked for, the body is kept no more"
        if lost == pages:
            raise TerminalError(f"{detail}; see {source.name.upper()}_BODIES_KEPT", code="bodies_dropped")
        log.warning("bodies_dropped", pages=pages, lost=lost, detail=detail)
