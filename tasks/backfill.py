"""Backfill: some assets' past is fetched from a source that tells of it, span by span, as a run of its own kind.

Each listing is a partition, whose cursor says which times are in. The live cursor is another's, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, get_args
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from sources.contract import EPOCH, History, Http, Item, Page, Past, Source, TerminalError, Window
from tasks.claims import Claim
from tasks.decisions import STANDS_FOR

PARTITION = "backfill:"
"""What the partitions of backfills begin with, and no other."""

FORMAT = "history"

Existing = Literal["skip", "retry", "repeat"]
"""What becomes of times that an earlier backfill has been through: none is fetched again, not even of a listing that
failed; what failed is; all are."""

EXISTING: tuple[str, ...] = get_args(Existing)

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Backfill:
    """The past of which assets, by their slugs; what was observed from a time on, and before another (aware)."""

    assets: tuple[str, ...]
    observed_from: datetime
    observed_to: datetime
    existing: Existing = "skip"

    @property
    def parameters(self) -> dict[str, Any]:
        """As JSON has them."""
        times = {name: getattr(self, name).isoformat() for name in ("observed_from", "observed_to")}
        return {"assets": list(self.assets), **times, "existing": self.existing}

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """What `parameters` gave."""
        times = {name: datetime.fromisoformat(parameters[name]) for name in ("observed_from", "observed_to")}
        return cls(tuple(parameters["assets"]), **times, existing=parameters["existing"])

    def spans(self, longest: timedelta) -> list[Span]:
        """The spans of its time, cut where every backfill cuts: so one finds again what another has been through."""
        found, since = [], self.observed_from
        while since < self.observed_to:
            end = EPOCH + ((since - EPOCH) // longest + 1) * longest
            found.append((since, min(end, self.observed_to)))
            since = end
        return found


@dataclass(frozen=True)
class Plan:
    """What a backfill would do. spans: requests. skipped: spans that it would not fetch, since they are in or failed.

    missing: assets that the source does not list.
    """

    listings: int
    spans: int
    skipped: int
    missing: list[str]


@dataclass(frozen=True)
class _Listed:
    """A listing, what backfills have been through of it, and the run that could not read it last."""

    listing: Mapping[str, str]
    cursor: Mapping[str, Any] | None
    failed_by: UUID | None

    @property
    def partition(self) -> str:
        return f"{PARTITION}{self.listing['source_asset_id']} {self.listing['quote_currency']}"


class _PastItem(dict[str, Any]):
    """An item of the past: the source maps it otherwise."""


def backfilled(engine: Engine, source: Source, claim: Claim) -> Source:
    """The source as a backfill has it: its partitions are listings, its pages spans of their past."""
    wanted = Backfill.of(claim.parameters)

    def partitions() -> list[str]:
        listed = _listed(engine, source.name, wanted.assets)
        # What failed in this run itself, it knows.
        failed = {it.partition for it in listed if it.failed_by not in (None, claim.run)}
        return [it.partition for it in listed if wanted.existing != "skip" or it.partition not in failed]

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        [it] = [it for it in _listed(engine, source.name, wanted.assets) if it.partition == window.partition]
        return _pages(history_of(source), it, wanted, window, http)

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
        return (_PastItem(item) for item in history.parse(page)) if is_past(page) else source.parse(page)

    def normalize(item: Item) -> Mapping[str, Any]:
        return history.normalize(item) if isinstance(item, _PastItem) else source.normalize(item)

    form = source.format
    return replace(
        source,
        parse=parse,
        normalize=normalize,
        format=lambda page: FORMAT if is_past(page) else form(page),
    )


def plan(engine: Engine, source: Source, wanted: Backfill) -> Plan:
    """What a backfill would do now; raises TerminalError for a source that tells nothing of the past."""
    spans, listed = wanted.spans(history_of(source).span), _listed(engine, source.name, wanted.assets)
    left = sum(
        0 if it.failed_by and wanted.existing == "skip" else len(_left(spans, _covered(it.cursor, wanted, run="")))
        for it in listed
    )
    with engine.connect() as connection:
        there = _slugs(connection, source.name, wanted.assets)
    missing = [slug for slug in wanted.assets if slug not in there]
    return Plan(len(listed), left, len(spans) * len(listed) - left, missing)


def _pages(history: History, it: _Listed, wanted: Backfill, window: Window, http: Http) -> Iterator[Page]:
    """Page by page what is left. One that the upstream refuses does not keep the others out."""
    cursor = window.cursor or {}
    covered, mine = _spans(cursor.get("covered", ())), _covered(cursor, wanted, window.run)
    refused: TerminalError | None = None
    # The newest first: where a plan tells of the last year only, that is in before the rest is refused.
    for since, until in reversed(_left(wanted.spans(history.span), mine)):
        try:
            reply = history.fetch(Past(it.listing, since, until), http)
        except TerminalError as error:
            if error.pause is not None:  # of the key or the plan, not of this span
                raise
            refused = refused or error
            continue
        covered, mine = _joined([*covered, (since, until)]), _joined([*mine, (since, until)])
        following = {"run": window.run, "covered": _texts(covered), "mine": _texts(mine)}
        request = {**reply.request, "listing": it.listing}
        yield Page(reply.body, reply.content_type, request, reply.fetched_at, following)
    if refused is not None:
        raise refused


def _covered(cursor: Mapping[str, Any] | None, wanted: Backfill, run: str) -> list[Span]:
    """The times that need not be fetched: what is in, or, where all is to be repeated, what this run has brought."""
    if not cursor:
        return []
    if wanted.existing != "repeat":
        return _spans(cursor["covered"])
    return _spans(cursor["mine"]) if cursor["run"] == run else []


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
    rows = connection.execute(STANDS_FOR, {"slugs": list(assets)}).all()
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
                SELECT source_asset_id, quote_currency, symbol, name, cursor, failed_by
                  FROM listings AS l
                  LEFT JOIN checkpoints AS c ON c.source = l.source
                   AND c.partition = :prefix || l.source_asset_id || ' ' || l.quote_currency
                 WHERE l.source = :source AND l.asset = ANY(:assets) ORDER BY l.id
            """),
            {"source": source, "prefix": PARTITION, "assets": list(_slugs(connection, source, assets).values())},
        ).all()
    names = ("source_asset_id", "symbol", "name", "quote_currency")
    return [_Listed({name: getattr(row, name) for name in names}, row.cursor, row.failed_by) for row in rows]
