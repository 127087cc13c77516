"""Backfill: some assets' past is fetched from a source that tells of it, span by span, as a run of its own kind.

Each listing is a partition, whose cursor says which times are in. The live cursor is another's, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import Connection, Engine, text

from sources.contract import History, HistoryWindow, Http, Item, Page, Source, TerminalError, Window
from tasks.identity.decisions import ASSETS_BY_SLUG
from tasks.runs.claims import Claim
from tasks.runs.parameters import BackfillParameters, Existing, Span

PARTITION = "backfill:"
"""What the partitions of backfills begin with, and no other."""

FORMAT = "history"

REFUSED = 400
"""The status of the page that says so; it has no body."""


@dataclass(frozen=True)
class BackfillPlan:
    """What a backfill would do. spans: requests. skipped: spans that it would not fetch, since they are in or failed.

    missing: assets that the source does not list.
    """

    listings: int
    spans: int
    skipped: int
    missing: list[str]


@dataclass(frozen=True)
class _Listed:
    """A listing, and what backfills have been through of it."""

    listing: Mapping[str, str]
    cursor: Mapping[str, Any] | None

    @property
    def partition(self) -> str:
        return f"{PARTITION}{self.listing['source_asset_id']} {self.listing['quote_currency']}"


class _PastItem(dict[str, Any]):
    """An item of the past: the source maps it otherwise."""


def backfill_source(engine: Engine, source: Source, claim: Claim) -> Source:
    """The source as a backfill has it: its partitions are listings, its pages spans of their past."""
    wanted = BackfillParameters.of(claim.parameters)

    def partitions() -> list[str]:
        return [it.partition for it in _listed(engine, source.name, wanted.assets)]

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        # A listing may have become another asset's since the run named it.
        for it in _listed(engine, source.name, wanted.assets):
            if it.partition == window.partition:
                yield from _pages(history_of(source), it, wanted, window, http)

    return replace(with_history(source), fetch=fetch, partitions=partitions, is_shared=False)


def history_of(source: Source) -> History:
    if source.history is None:
        raise TerminalError(f"{source.name} tells nothing of the past", code="no_history")
    return source.history


def with_history(source: Source) -> Source:
    """The source, which also reads what a backfill has fetched. Those that read columns have no history."""
    history = source.history
    if history is None:
        return source

    def is_past(page: Page) -> bool:
        return "listing" in page.request

    def parse(page: Page) -> Iterable[Item]:
        if not is_past(page):
            return source.parse(page)
        return () if "refused" in page.request else (_PastItem(item) for item in history.parse(page))

    def normalize(item: Item) -> Mapping[str, Any]:
        return history.normalize(item) if isinstance(item, _PastItem) else source.normalize(item)

    form = source.format
    return replace(
        source,
        parse=parse,
        normalize=normalize,
        format=lambda page: FORMAT if is_past(page) else form(page),
    )


def plan_backfill(engine: Engine, source: Source, wanted: BackfillParameters, now: datetime) -> BackfillPlan:
    """What a backfill would do; raises TerminalError for a source that tells nothing of the past."""
    spans, listed = wanted.spans(history_of(source).span, now), _listed(engine, source.name, wanted.assets)
    left = sum(len(_left(spans, Coverage.through(it.cursor, run="").to_skip(wanted.existing))) for it in listed)
    with engine.connect() as connection:
        there = _slugs(connection, source.name, wanted.assets)
    missing = [slug for slug in wanted.assets if slug not in there]
    return BackfillPlan(len(listed), left, len(spans) * len(listed) - left, missing)


@dataclass
class Coverage:
    """What backfills have been through of a listing: what is in, what was refused, and what this run has done of both.

    error: why this run was refused something, the first time.
    """

    covered: list[Span]
    refused: list[Span]
    mine: list[Span]
    error: Mapping[str, str] | None

    @classmethod
    def through(cls, cursor: Mapping[str, Any] | None, run: str) -> Self:
        told = cursor or {"covered": (), "refused": (), "mine": (), "error": None, "run": run}
        is_ours = told["run"] == run
        return cls(
            _spans(told["covered"]),
            _spans(told["refused"]),
            _spans(told["mine"]) if is_ours else [],
            told["error"] if is_ours else None,
        )

    def cursor(self, run: str) -> dict[str, Any]:
        spans = {name: _texts(getattr(self, name)) for name in ("covered", "refused", "mine")}
        return {"run": run, **spans, "error": self.error}

    def to_skip(self, existing: Existing) -> list[Span]:
        others = {"skip": [*self.covered, *self.refused], "retry": self.covered, "repeat": []}
        return _joined([*self.mine, *others[existing]])

    def add(self, span: Span, error: TerminalError | None = None) -> None:
        self.mine = _joined([*self.mine, span])
        if error is None:
            self.covered = _joined([*self.covered, span])
            self.refused = _left(self.refused, self.covered)
        else:
            self.refused = sorted({*self.refused, span})
            self.error = self.error or {"code": error.code, "detail": error.detail}


def _pages(history: History, it: _Listed, wanted: BackfillParameters, window: Window, http: Http) -> Iterator[Page]:
    """Page by page what is left. A span that the upstream refuses is a page as well: it is not asked for again."""
    been = Coverage.through(window.cursor, window.run)
    for span in _left(wanted.spans(history.span, window.now), been.to_skip(wanted.existing)):
        since, until = span
        try:
            reply = history.fetch(HistoryWindow(it.listing, since, min(until, window.now)), http)
        except TerminalError as error:
            if error.pause is not None:  # of the key or the plan, not of this span
                raise
            been.add(span, error)
            request = {"listing": it.listing, "refused": error.detail, "span": _texts([span])[0]}
            yield Page(b"", "", request, window.now, been.cursor(window.run), status=REFUSED)
            continue
        been.add(span)
        page = Page.of(reply, been.cursor(window.run))
        request = {**reply.request, "listing": it.listing}
        yield replace(page, request=request, reply=None, corrects=wanted.existing == "repeat")
    if been.error is not None:
        raise TerminalError(been.error["detail"], code=been.error["code"])


def _spans(texts: Iterable[Sequence[str]]) -> list[Span]:
    return [(datetime.fromisoformat(since), datetime.fromisoformat(until)) for since, until in texts]


def _left(spans: Sequence[Span], covered: Sequence[Span]) -> list[Span]:
    return [(since, until) for since, until in spans if not any(a <= since and until <= b for a, b in covered)]


def _joined(spans: Iterable[Span]) -> list[Span]:
    """The same times, in as few spans as there can be."""
    found: list[Span] = []
    for since, until in sorted(spans):
        if found and since <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until))
        else:
            found.append((since, until))
    return found


def _texts(spans: Iterable[Span]) -> list[list[str]]:
    return [[at.astimezone(UTC).isoformat() for at in span] for span in spans]


def _slugs(connection: Connection, source: str, assets: Sequence[str]) -> dict[str, int]:
    """Of these slugs those of which the source lists the asset, by that."""
    rows = connection.execute(ASSETS_BY_SLUG, {"slugs": list(assets)}).all()
    listed = set(
        connection.scalars(
            text("SELECT DISTINCT asset FROM listings WHERE source = :source AND asset = ANY(:assets)"),
            {"source": source, "assets": [row.id for row in rows]},
        )
    )
    return {row.asked: row.id for row in rows if row.id in listed}


def _listed(engine: Engine, source: str, assets: Sequence[str]) -> list[_Listed]:
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
    return [_Listed({name: getattr(row, name) for name in names}, row.cursor) for row in rows]
