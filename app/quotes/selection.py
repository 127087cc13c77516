"""Select the quotes that match a request's filters, with the fastest query for these filters."""

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
from app.web.row_estimates import MAX_COUNTED_ROWS, RowEstimate
from store.tables import LatestQuoteRow, QuoteRow

MAX_FEW_LISTINGS = 50
"""Up to this many listings are read one by one through the primary key. More are read through the index on time."""

Key = tuple[datetime, pagination.Id, datetime]
"""A cursor's key: observed_at and listing of the last row of the page, and ingested_until of the first page."""

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

CURSOR_PARAMETERS = (
    bindparam("after_observed_at", type_=QuoteRow.observed_at.type),
    bindparam("after_listing_id", type_=Integer),
)
LISTINGS: ColumnElement[Any] = cast(bindparam("listings"), ARRAY(Integer))
IS_SELECTED_LISTING: ColumnElement[bool] = QuoteRow.listing_id == any_(LISTINGS)


@dataclass(frozen=True)
class QueryShape:
    """The properties that determine the SQL of a selection. All other values are parameters.

    sort_all: read all selected rows and sort them, instead of reading them in order.
    """

    conditions: tuple[str, ...]
    listings: Literal["all", "few", "many"]
    descending: bool
    sort_all: bool = False

    def all(self) -> Conditions:
        """Return the conditions that select the rows."""
        conditions = [CONDITIONS[name] for name in self.conditions]
        return conditions if self.listings == "all" else [*conditions, IS_SELECTED_LISTING]

    def order(self, quote: Columns) -> Sequence[Any]:
        key = (quote.observed_at, quote.listing_id)
        return [column.desc() for column in key] if self.descending else key

    def page(self, *, is_first: bool) -> Subquery:
        """Return a subquery for the rows of a page and one more row, which shows whether another page follows."""
        conditions = self.all() if is_first else [*self.all(), *self._after()]
        if self.sort_all:
            # OFFSET 0 prevents a scan of the index on time. The planner cannot estimate how many rows it reads.
            rows = select(QuoteRow).where(*conditions).offset(0).subquery("selected")
            return select(rows).order_by(*self.order(rows.c)).limit(LIMIT + 1).subquery("rows")
        if self.listings == "few":
            return self._page_by_listing(conditions)
        if self.listings == "many":
            conditions.append(self._within_listings())
        return select(QuoteRow).where(*conditions).order_by(*self.order(QuoteRow)).limit(LIMIT + 1).subquery("rows")

    def _page_by_listing(self, conditions: Conditions) -> Subquery:
        """Return a subquery that reads a page of each listing through the primary key, and merges these pages."""
        listing = _listings()
        other_conditions = [condition for condition in conditions if condition is not IS_SELECTED_LISTING]
        of_listing = select(QuoteRow).where(QuoteRow.listing_id == listing.c.id, *other_conditions)
        page = of_listing.order_by(*self.order(QuoteRow)[:1]).limit(LIMIT + 1).lateral("page_of_listing")
        rows = select(page).select_from(listing).join(page, true())
        return rows.order_by(*self.order(page.c)).limit(LIMIT + 1).subquery("rows")

    def _after(self) -> Conditions:
        key, last = tuple_(QuoteRow.observed_at, QuoteRow.listing_id), tuple_(*CURSOR_PARAMETERS)
        # The second condition follows from the first, but lets a scan of the primary key start at the cursor's time.
        if self.descending:
            return [key < last, QuoteRow.observed_at <= CURSOR_PARAMETERS[0]]
        return [key > last, QuoteRow.observed_at >= CURSOR_PARAMETERS[0]]

    def _within_listings(self) -> ColumnElement[bool]:
        """Return the condition that starts the scan at the newest, or oldest, quote of the listings.

        Without it, the query for a stale source would first scan all newer quotes of other sources.
        """
        if self.descending:
            newest = select(func.max(LatestQuoteRow.observed_at)).where(LatestQuoteRow.listing_id == any_(LISTINGS))
            return QuoteRow.observed_at <= newest.scalar_subquery()
        listing, quote = _listings(), aliased(QuoteRow)
        oldest = (
            select(quote.observed_at)
            .where(quote.listing_id == listing.c.id)
            .order_by(quote.observed_at)
            .limit(1)
            .lateral("oldest")
        )
        oldest_of_all = select(func.min(oldest.c.observed_at)).select_from(listing).join(oldest, true())
        return QuoteRow.observed_at >= oldest_of_all.scalar_subquery()


class Selection:
    """The quotes that one request selects.

    arguments: the result of loading `DataQuery`. Raise a Problem for an unknown asset or run.
    """

    def __init__(self, connection: Connection, arguments: Mapping[str, Any]):
        self._connection = connection
        listings = listing_ids(connection, arguments)
        filters = {
            name: arguments[name] for name in ("observed_from", "observed_to", "ingested_since") if name in arguments
        }
        bounds = find_run_bounds(connection, arguments["run"]) if "run" in arguments else None
        self._max_rows = bounds.rows if bounds and listings is None and not filters else 0
        if bounds:
            filters |= {"run": str(arguments["run"]), **bounds.bounds}
            if bounds.listings is not None:
                listings = sorted({*bounds.listings} if listings is None else {*bounds.listings} & {*listings})
        self.parameters: dict[str, Any] = {**filters, "listings": listings or []}
        self._limit: int = arguments["limit"]
        self.shape = QueryShape(
            conditions=tuple(filters),
            listings="all" if listings is None else "few" if len(listings) <= MAX_FEW_LISTINGS else "many",
            descending=arguments["order"] == "desc",
            sort_all=bounds is not None and bounds.is_small,
        )

    def page(self, members: tuple[str, ...], after: Key | None) -> JsonRows:
        """Return the page after this key, or the first page without a key."""
        parameters = self.parameters
        if after:
            parameters = {**parameters, "after_observed_at": after[0], "after_listing_id": after[1]}
        statement = _page(self.shape, members, self._limit, is_first=after is None)
        return JsonRows.of(statement.row(self._connection, parameters))

    def count(self) -> int:
        """Return the exact number of selected rows."""
        return int(_count(self.shape).value(self._connection, self.parameters))

    def total(self, method: str, only_page_rows: int | None) -> tuple[int | None, bool]:
        """Return the number of rows on all pages, and whether it is an estimate.

        method: the parameter `count`. only_page_rows: if there is only one page, its number of rows.
        """
        if method == "none":
            return None, False
        if only_page_rows is not None:
            return only_page_rows, False
        if method == "estimated":
            if self._max_rows > MAX_COUNTED_ROWS:
                return self._max_rows, True
            return _estimate(self.shape).estimate_or_count(self._connection, self.parameters)
        return self.count(), False


@lru_cache(MAX_PREPARED)
def _page(shape: QueryShape, members: tuple[str, ...], limit: int, *, is_first: bool) -> PreparedStatement:
    # Without filters, one plan is best for every cursor.
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


def _listings() -> Any:
    return func.unnest(LISTINGS).table_valued("id").render_derived(name="listing")
