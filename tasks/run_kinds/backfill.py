"""Fetch past data of some assets, span by span, from a source that declares a history.

Each listing is a partition. Its cursor records the loaded spans. The cursors of live runs do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Connection, Engine, text

from sources.contract import (
    BLANK,
    LEFT_OUT,
    History,
    HistoryWindow,
    Http,
    Item,
    Page,
    Reject,
    Source,
    TerminalError,
    Window,
)
from sources.record import Record
from tasks.identity.decisions import ASSETS_BY_SLUG
from tasks.runs.claims import Claim
from tasks.runs.parameters import BackfillParameters, Existing, Span

PARTITION = "backfill:"
"""Prefix of the partitions of backfills. Sources must not use it."""

FORMAT = "history"
"""The format of backfilled items, for the detection of drift."""

REFUSED = 400
"""Status of a page without body. It records that the upstream refused a span."""


@dataclass(frozen=True)
class BackfillPlan:
    """The work that a backfill would do.

    spans: the number of spans to fetch, each with one request.
    skipped: the number of spans that are already loaded or refused.
    missing: assets that the source does not list.
    """

    listings: int
    spans: int
    skipped: int
    missing: list[str]


@dataclass(frozen=True)
class _BackfillListing:
    """A listing, and the cursor of its backfills."""

    fields: Mapping[str, str]
    cursor: Mapping[str, Any] | None

    @property
    def partition(self) -> str:
        return f"{PARTITION}{self.fields['source_asset_id']} {self.fields['quote_currency']}"


class _HistoryItem(dict[str, Any]):
    """An item of a backfill's page, which `History.normalize` maps."""


def backfill_source(engine: Engine, source: Source, claim: Claim) -> Source:
    """Return the source with listings as partitions and spans of their history as pages."""
    parameters = BackfillParameters.of(claim.parameters)

    def partitions() -> list[str]:
        return [listing.partition for listing in _listed(engine, source.name, parameters.assets)]

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        # Read the listings again: their assets may have changed since the run was requested.
        for listing in _listed(engine, source.name, parameters.assets):
            if listing.partition == window.partition:
                yield from _pages(history_of(source), listing, parameters, window, http)

    return replace(with_history(source), fetch=fetch, partitions=partitions, is_shared=False)


def history_of(source: Source) -> History:
    """Return the history that the source declares. Raise TerminalError if it declares none."""
    if source.history is None:
        raise TerminalError(f"{source.name} declares no history, so it cannot be backfilled", code="no_history")
    return source.history


def with_history(source: Source) -> Source:
    """Return the source with support for the pages of backfills. Sources that parse columns have no history."""
    history = source.history
    if history is None:
        return source

    def is_backfilled(page: Page) -> bool:
        return "listing" in page.request

    def parse(page: Page) -> Iterable[Item]:
        if not is_backfilled(page):
            return source.parse(page)
        if "refused" in page.request:
            return ()
        return (item if _has_no_quote(item) else _HistoryItem(item) for item in history.parse(page))

    def normalize(item: Item) -> Mapping[str, Any]:
        return history.normalize(item) if isinstance(item, _HistoryItem) else source.normalize(item)

    live_format = source.format
    return replace(
        source,
        parse=parse,
        normalize=normalize,
        format=lambda page: FORMAT if is_backfilled(page) else live_format(page),
    )


def plan_backfill(engine: Engine, source: Source, parameters: BackfillParameters, now: datetime) -> BackfillPlan:
    """Return the work that a backfill would do. Raise TerminalError if the source declares no history."""
    spans, listings = parameters.spans(history_of(source).span, now), _listed(engine, source.name, parameters.assets)
    coverages = [Coverage.of(listing.cursor, run="") for listing in listings]
    span_count = sum(len(_remaining(spans, coverage.to_skip(parameters.existing))) for coverage in coverages)
    with engine.connect() as connection:
        listed_slugs = _slugs(connection, source.name, parameters.assets)
    missing = [slug for slug in parameters.assets if slug not in listed_slugs]
    return BackfillPlan(len(listings), span_count, len(spans) * len(listings) - span_count, missing)


@dataclass
class Coverage:
    """The spans of a listing that backfills have processed.

    covered: loaded; refused: refused by the upstream; processed: by this run; error: the first refusal in this run.
    """

    covered: list[Span]
    refused: list[Span]
    processed: list[Span]
    error: Mapping[str, str] | None

    @classmethod
    def of(cls, cursor: Mapping[str, Any] | None, run: str) -> Self:
        state = cursor or {"covered": (), "refused": (), "mine": (), "error": None, "run": run}
        is_same_run = state["run"] == run
        return cls(
            _spans(state["covered"]),
            _spans(state["refused"]),
            _spans(state["mine"]) if is_same_run else [],
            state["error"] if is_same_run else None,
        )

    def cursor(self, run: str) -> dict[str, Any]:
        # Stored cursors call the processed spans `mine`. Workers of other versions read them, so keep that key.
        spans = {"covered": self.covered, "refused": self.refused, "mine": self.processed}
        return {"run": run, **{name: _texts(value) for name, value in spans.items()}, "error": self.error}

    def to_skip(self, existing: Existing) -> list[Span]:
        spans = {"skip": [*self.covered, *self.refused], "retry": self.covered, "repeat": []}
        return _merged([*self.processed, *spans[existing]])

    def add_unusable(self, span: Span) -> None:
        """Add a span whose items all failed. This run does not request it again, but later backfills do."""
        self.processed = _merged([*self.processed, span])
        detail = f"the response for {span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d} has items, but none became a quote"
        self.error = self.error or {"code": "nothing_loaded", "detail": detail}

    def add(self, span: Span, error: TerminalError | None = None) -> None:
        self.processed = _merged([*self.processed, span])
        if error is None:
            self.covered = _merged([*self.covered, span])
            self.refused = _remaining(self.refused, self.covered)
        else:
            self.refused = sorted({*self.refused, span})
            self.error = self.error or {"code": error.code, "detail": error.detail}


def _pages(
    history: History, listing: _BackfillListing, parameters: BackfillParameters, window: Window, http: Http
) -> Iterator[Page]:
    """Yield a page for each remaining span. A refused span also gets a page, so that it is not requested again."""
    coverage = Coverage.of(window.cursor, window.run)
    for span in _remaining(parameters.spans(history.span, window.now), coverage.to_skip(parameters.existing)):
        since, until = span
        try:
            response = history.fetch(HistoryWindow(listing.fields, since, min(until, window.now)), http)
        except TerminalError as error:
            if error.pause is not None:  # The key or the plan is refused, not this span.
                raise
            coverage.add(span, error)
            request = {"listing": listing.fields, "refused": error.detail, "span": _texts([span])[0]}
            yield Page(b"", "", request, window.now, coverage.cursor(window.run), status=REFUSED)
            continue
        request = {**response.request, "listing": listing.fields}
        page = replace(
            Page.of(response, None), request=request, response=None, corrects=parameters.existing == "repeat"
        )
        if _has_only_unusable_items(history, page, window):
            coverage.add_unusable(span)
        else:
            coverage.add(span)
        yield replace(page, cursor=coverage.cursor(window.run))
    if coverage.error is not None:
        raise TerminalError(coverage.error["detail"], code=coverage.error["code"])


def _has_no_quote(item: Item) -> bool:
    return item is LEFT_OUT or item is BLANK or isinstance(item, Reject)


def _has_only_unusable_items(history: History, page: Page, window: Window) -> bool:
    """Return whether the page has items, of which none becomes a quote."""
    record, has_items = Record(page.fetched_at + window.skew), False
    for item in history.parse(page):
        has_items = True
        if not _has_no_quote(item):
            # The page is normalized again when it is loaded, with the reason of each reject.
            with suppress(Exception):
                record.judge(history.normalize(item))
                return False
    return has_items


def _spans(texts: Iterable[Sequence[str]]) -> list[Span]:
    return [(datetime.fromisoformat(since), datetime.fromisoformat(until)) for since, until in texts]


def _remaining(spans: Sequence[Span], covered: Sequence[Span]) -> list[Span]:
    return [(since, until) for since, until in spans if not any(a <= since and until <= b for a, b in covered)]


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Merge overlapping and adjacent spans."""
    merged: list[Span] = []
    for since, until in sorted(spans):
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], until))
        else:
            merged.append((since, until))
    return merged


def _texts(spans: Iterable[Span]) -> list[list[str]]:
    return [[at.astimezone(UTC).isoformat() for at in span] for span in spans]


def _slugs(connection: Connection, source: str, assets: Sequence[str]) -> dict[str, int]:
    """Return, by slug, the ids of the assets that the source lists."""
    rows = connection.execute(ASSETS_BY_SLUG, {"slugs": list(assets)}).all()
    listed = set(
        connection.scalars(
            text("SELECT DISTINCT asset FROM listings WHERE source = :source AND asset = ANY(:assets)"),
            {"source": source, "assets": [row.id for row in rows]},
        )
    )
    return {row.requested: row.id for row in rows if row.id in listed}


def _listed(engine: Engine, source: str, assets: Sequence[str]) -> list[_BackfillListing]:
    with engine.connect() as connection:
        rows = connection.execute(
            text("""
                SELECT source_asset_id, quote_currency, symbol, name, cursor
                  FROM listings AS l
                  LEFT JOIN checkpoints AS c ON c.source = l.source
                   AND c.partition = :prefix || l.source_asset_id || ' ' || l.quote_currency
                 WHERE l.source = :source AND l.asset = ANY(:assets) ORDER BY l.id
            """),
            {"source": source, "prefix": PARTITION, "assets": list(_slugs(connection, source, assets).values())},
        ).all()
    names = ("source_asset_id", "symbol", "name", "quote_currency")
    return [_BackfillListing({name: getattr(row, name) for name in names}, row.cursor) for row in rows]
