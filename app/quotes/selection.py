"""The quotes that a request asks for, and the way to them that is quick for such a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Subquery,
    Uuid,
    any_,
    bindparam,
    cast,
    func,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import aliased
from sqlalchemy.types import Integer

from app.assets.filters import listing_ids
from app.quotes.fields import LIMIT, Columns, JsonRows, rows_as_json
from app.quotes.run_bounds import find_run_bounds
from app.web import pagination
from app.web.prepared import MAX_PREPARED, PreparedStatement
from app.web.row_estimates import EXACT_LIMIT, RowEstimate
from store.tables import LatestQuoteRow, QuoteRow

FEW = 50
"""Up to so many listings are each read by their own key; beyond, the index over time is walked."""

Key = tuple[datetime, pagination.Id, datetime]
"""observed_at and listing of the last row shown, and the first page's ingested_until."""

KEY = ("observed_at", "listing_id")

Conditions = list[ColumnElement[bool]]

CONDITIONS: Mapping[str, ColumnElement[bool]] = {
    "observed_from": QuoteRow.observed_at >= bindparam("observed_from"),
    "observed_to": QuoteRow.observed_at < bindparam("observed_to"),
    "ingested_since": QuoteRow.ingested_at >= bindparam("ingested_since"),
    "run": QuoteRow.run == cast(bindparam("run"), Uuid),
    "run_started": QuoteRow.ingested_at >= bindparam("run_started"),
    "run_finished": QuoteRow.ingested_at <= bindparam("run_finished"),
    "run_first": QuoteRow.observed_at >= bindparam("run_first"),
    "run_last": QuoteRow.observed_at <= bindparam("run_last"),
}

AFTER = (bindparam("after_observed_at", type_=QuoteRow.observed_at.type), bindparam("after_listing_id", type_=Integer))
LISTINGS: ColumnElement[Any] = cast(bindparam("listings"), ARRAY(Integer))
AMONG: ColumnElement[bool] = QuoteRow.listing_id == any_(LISTINGS)


@dataclass(frozen=True)
class QueryShape:
    """What decides how a selection's SQL reads; all else is its parameters."""

    conditions: tuple[str, ...]
    listings: Literal["all", "few", "many"]
    descending: bool
    gathered: bool = False

    def all(self) -> Conditions:
        """What every row meets, and no other."""
        conditions = [CONDITIONS[name] for name in self.conditions]
        return conditions if self.listings == "all" else [*conditions, AMONG]

    def order(self, quote: Columns) -> Sequence[Any]:
        key = (quote.observed_at, quote.listing_id)
        return [column.desc() for column in key] if self.descending else key

    def page(self, *, is_first: bool) -> Subquery:
        """One row more than a page has."""
        conditions = self.all() if is_first else [*self.all(), *self._beyond()]
        if self.gathered:
            # OFFSET keeps the planner from walking through time for them: how long, it cannot know.
            rows = select(QuoteRow).where(*conditions).offset(0).subquery("gathered")
            return select(rows).order_by(*self.order(rows.c)).limit(LIMIT + 1).subquery("rows")
        if self.listings == "few":
            return self._by_listing(conditions)
        if self.listings == "many":
            conditions.append(self._from_their_first())
        return select(QuoteRow).where(*conditions).order_by(*self.order(QuoteRow)).limit(LIMIT + 1).subquery("rows")

    def _by_listing(self, conditions: Conditions) -> Subquery:
        """Of each listing a page through its primary key, and of these the first page."""
        wanted = _wanted()
        others = [condition for condition in conditions if condition is not AMONG]
        of_one = select(QuoteRow).where(QuoteRow.listing_id == wanted.c.id, *others)
        each = of_one.order_by(*self.order(QuoteRow)[:1]).limit(LIMIT + 1).lateral("each")
        rows = select(each).select_from(wanted).join(each, true())
        return rows.order_by(*self.order(each.c)).limit(LIMIT + 1).subquery("rows")

    def _beyond(self) -> Conditions:
        key, last = tuple_(QuoteRow.observed_at, QuoteRow.listing_id), tuple_(*AFTER)
        # The second says nothing new, but is one that the primary key's index can start at.
        if self.descending:
            return [key < last, QuoteRow.observed_at <= AFTER[0]]
        return [key > last, QuoteRow.observed_at >= AFTER[0]]

    def _from_their_first(self) -> ColumnElement[bool]:
        """Else an old source, newest first, would be found after walking through all that is newer than it."""
        if self.descending:
            newest = select(func.max(LatestQuoteRow.observed_at)).where(LatestQuoteRow.listing_id == any_(LISTINGS))
            return QuoteRow.observed_at <= newest.scalar_subquery()
        one, first = _wanted(), aliased(QuoteRow)
        oldest = (
            select(first.observed_at)
            .where(first.listing_id == one.c.id)
            .order_by(first.observed_at)
            .limit(1)
            .lateral("oldest")
        )
        of_all = select(func.min(oldest.c.observed_at)).select_from(one).join(oldest, true())
        return QuoteRow.observed_at >= of_all.scalar_subquery()


class Selection:
    """What one request asks for. arguments: as `DataQuery` gives them; raises a Problem for what is not there."""

    def __init__(self, connection: Connection, arguments: Mapping[str, Any]):
        self._connection = connection
        listings = listing_ids(connection, arguments)
        found = {
            name: arguments[name] for name in ("observed_from", "observed_to", "ingested_since") if name in arguments
        }
        wrote = find_run_bounds(connection, arguments["run"]) if "run" in arguments else None
        self._at_most = wrote.rows if wrote and listings is None and not found else 0
        if wrote:
            found |= {"run": str(arguments["run"]), **wrote.bounds}
            if wrote.listings is not None:
                listings = sorted({*wrote.listings} if listings is None else {*wrote.listings} & {*listings})
        self.parameters: dict[str, Any] = {**found, "listings": listings or []}
        self._limit: int = arguments["limit"]
        self.shape = QueryShape(
            conditions=tuple(found),
            listings="all" if listings is None else "few" if len(listings) <= FEW else "many",
            descending=arguments["order"] == "desc",
            gathered=wrote is not None and wrote.are_few,
        )

    def page(self, members: tuple[str, ...], after: Key | None) -> JsonRows:
        """The page after a key."""
        parameters = self.parameters
        if after:
            parameters = {**parameters, "after_observed_at": after[0], "after_listing_id": after[1]}
        written = _page(self.shape, members, self._limit, is_first=after is None)
        return JsonRows.of(written.row(self._connection, parameters))

    def count(self) -> int:
        """How many rows there are."""
        return int(_count(self.shape).value(self._connection, self.parameters))

    def total(self, how: str, whole: int | None) -> tuple[int | None, bool]:
        """How many rows there are on all pages, and whether that is an estimate. whole: the rows of the only page."""
        if how == "none":
            return None, False
        if whole is not None:
            return whole, False
        if how == "estimated":
            if self._at_most > EXACT_LIMIT:
                return self._at_most, True
            return _estimate(self.shape).about_how_many(self._connection, self.parameters)
        return self.count(), False


@lru_cache(MAX_PREPARED)
def _page(shape: QueryShape, members: tuple[str, ...], limit: int, *, is_first: bool) -> PreparedStatement:
    # Where nothing is asked for but what follows, what is best for one place is best for all.
    one_plan = not is_first and not shape.conditions and shape.listings == "all"
    return PreparedStatement(
        rows_as_json(shape.page(is_first=is_first), members, shape.order, KEY, limit), one_plan=one_plan
    )


@lru_cache(MAX_PREPARED)
def _count(shape: QueryShape) -> PreparedStatement:
    return PreparedStatement(select(func.count()).select_from(QuoteRow).where(*shape.all()))


@lru_cache(MAX_PREPARED)
def _estimate(shape: QueryShape) -> RowEstimate:
    return RowEstimate(select(QuoteRow.listing_id).where(*shape.all()))


def _wanted() -> Any:
    return func.unnest(LISTINGS).table_valued("id").render_derived(name="wanted")
