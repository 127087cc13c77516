"""The quotes that a request asks for, and the way to them that is quick for such a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Subquery, any_, cast, func, literal, select, true, tuple_
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import aliased
from sqlalchemy.types import Integer

from app import cursor
from app.estimates import about_how_many
from app.filters import listing_ids
from app.problems import invalid_parameter
from app.quotes import Columns
from store.tables import LatestQuote, Quote, Run

FEW = 50
"""Up to so many listings are each read by their own key; beyond, the index over time is walked."""

Key = tuple[datetime, cursor.Id, datetime]
"""observed_at and listing of the last row shown, and the first page's ingested_until."""

Conditions = list[ColumnElement[bool]]


class Selection:
    """What one request asks for. arguments: as `DataQuery` gives them; raises a Problem for what is not there."""

    def __init__(self, connection: Connection, arguments: Mapping[str, Any]):
        self.connection = connection
        self.limit = arguments["limit"]
        self.descending = arguments["order"] == "desc"
        self.listings = listing_ids(connection, arguments)
        self.conditions = list(_conditions(connection, arguments))

    def order(self, quote: Columns) -> Sequence[Any]:
        key = (quote.observed_at, quote.listing_id)
        return [column.desc() for column in key] if self.descending else key

    def page(self, after: Key | None) -> Subquery:
        """One row more than a page has, beginning after a key."""
        if self.listings is not None and len(self.listings) <= FEW:
            return self._by_listing(self.listings, after)
        rows = select(Quote).where(*self.conditions, *self._beyond(Quote, after))
        if self.listings is not None:
            rows = rows.where(_among(self.listings), self._from_their_first())
        return rows.order_by(*self.order(Quote)).limit(self.limit + 1).subquery("rows")

    def _by_listing(self, listings: list[int], after: Key | None) -> Subquery:
        """Of each listing a page through its primary key, and of these the first page."""
        wanted = _unnested(listings)
        of_one = select(Quote).where(Quote.listing_id == wanted.c.id, *self.conditions, *self._beyond(Quote, after))
        each = of_one.order_by(*self.order(Quote)[:1]).limit(self.limit + 1).lateral("each")
        rows = select(each).select_from(wanted).join(each, true())
        return rows.order_by(*self.order(each.c)).limit(self.limit + 1).subquery("rows")

    def _beyond(self, quote: Columns, after: Key | None) -> Conditions:
        if after is None:
            return []
        key, last = tuple_(quote.observed_at, quote.listing_id), tuple_(literal(after[0]), literal(after[1]))
        # The second says nothing new, but is one that the primary key's index can start at.
        if self.descending:
            return [key < last, quote.observed_at <= after[0]]
        return [key > last, quote.observed_at >= after[0]]

    def _from_their_first(self) -> ColumnElement[bool]:
        """Else an old source, newest first, would be found after walking through all that is newer than it."""
        if self.descending:
            newest = select(func.max(LatestQuote.observed_at)).where(
                LatestQuote.listing_id == any_(_array(self.listings))
            )
            return Quote.observed_at <= newest.scalar_subquery()
        one = _unnested(self.listings)
        first = aliased(Quote)
        oldest = (
            select(first.observed_at)
            .where(first.listing_id == one.c.id)
            .order_by(first.observed_at)
            .limit(1)
            .lateral("oldest")
        )
        return (
            Quote.observed_at
            >= select(func.min(oldest.c.observed_at)).select_from(one).join(oldest, true()).scalar_subquery()
        )

    def all(self) -> Conditions:
        """What every row meets, and no other."""
        return self.conditions if self.listings is None else [*self.conditions, _among(self.listings)]

    def count(self) -> int:
        return self.connection.execute(select(func.count()).select_from(Quote).where(*self.all())).scalar_one()

    def total(self, how: str, whole: int | None) -> tuple[int | None, bool]:
        """How many rows there are on all pages, and whether that is an estimate. whole: the rows of the only page."""
        if how == "none":
            return None, False
        if whole is not None:
            return whole, False
        if how == "estimated":
            return about_how_many(self.connection, select(Quote.listing_id).where(*self.all()))
        return self.count(), False


def _array(listings: list[int] | None) -> ColumnElement[Any]:
    return cast(listings or [], ARRAY(Integer))


def _unnested(listings: list[int] | None) -> Any:
    return func.unnest(_array(listings)).table_valued("id").render_derived(name="wanted")


def _among(listings: list[int]) -> ColumnElement[bool]:
    return Quote.listing_id == any_(_array(listings))


def _conditions(connection: Connection, arguments: Mapping[str, Any]) -> Iterator[ColumnElement[bool]]:
    if "observed_from" in arguments:
        yield Quote.observed_at >= arguments["observed_from"]
    if "observed_to" in arguments:
        yield Quote.observed_at < arguments["observed_to"]
    if "ingested_since" in arguments:
        yield Quote.ingested_at >= arguments["ingested_since"]
    if "run" in arguments:
        yield from _written_by(connection, arguments["run"])


def _written_by(connection: Connection, run: UUID) -> Conditions:
    """Quotes have no index on run; they have one on the time of writing, and a run knows its times."""
    times = connection.execute(select(Run.started_at, Run.finished_at).where(Run.id == run)).one_or_none()
    if times is None:
        raise invalid_parameter("run", f"there is no run {run}")
    started = func.coalesce(times.started_at, func.clock_timestamp())
    finished = func.coalesce(times.finished_at, func.clock_timestamp())
    return [Quote.run == run, Quote.ingested_at >= started, Quote.ingested_at <= finished]
