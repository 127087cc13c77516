"""Define the data that a source and the pipeline exchange: windows, responses, pages and items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Protocol

from sources.declarations import Rule, check_members, is_json

if TYPE_CHECKING:
    import polars

Item = Any
"""An item that `parse` yields: the raw data of one quote. Only the source's own functions read it."""

Cursor = Mapping[str, Any]
"""The position in a partition where the next fetch starts: a JSON object with any keys that the source needs."""

BLANK: Final = object()
"""The item that `parse` yields for an empty row. It is counted as blank, and neither loaded nor rejected."""

LEFT_OUT: Final = object()
"""The item that `parse` yields for an item of the body that is no quote of the source, such as the price of an hour in
a source of daily prices. It is counted as left out, and neither loaded nor rejected."""


@dataclass(frozen=True)
class Window:
    """The input of one `fetch` call: the run, the partition to read, and where to start."""

    run: str
    """The run's id, a UUID."""

    partition: str
    """A name from `Source.partitions`."""

    cursor: Cursor | None
    """The cursor of the partition's last committed page, from any run. None: start at the beginning."""

    now: datetime
    """The database's time when this call was prepared (aware, UTC). Use it instead of the host's clock."""

    slot: datetime | None = None
    """The start of the run's slot in the schedule (aware, UTC). It may be long past. None: a manual run."""

    skew: timedelta = timedelta()
    """The time by which the upstream's clock may be ahead of ours."""

    @property
    def latest(self) -> datetime:
        """Return the latest time allowed for an observation (aware, UTC). A cursor that is a time must not exceed it.

        Otherwise a record dated 2999 would make later fetches skip all other data. The run fails as `cursor_in_future`.
        """
        return self.now + self.skew


@dataclass(frozen=True)
class Response:
    """A successful response from an upstream: status 200, or 304 to a conditional request."""

    body: bytes
    """The whole body, decompressed. For a 304, the stored body that is still valid."""

    status: int

    content_type: str

    request: dict[str, Any]
    """The request without its secrets: {"method", "url", "params"}, and for POST also {"json"}."""

    fetched_at: datetime
    """The database's time right before the request (aware, UTC)."""

    etag: str | None = None
    last_modified: str | None = None
    """The validators as the upstream sent them; None if they cannot be used for a conditional request."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers of this response, with names in lower case. A 304 has fewer headers than its stored response had."""

    unchanged: bool = False
    """Whether the body equals the last body that was loaded for this request."""


class Http(Protocol):
    """A source's client for its own upstream. It applies the base URL, key, limits, timeouts, retries and breaker.

    Each function raises TransientError or TerminalError if the request fails. Do not catch these errors in `fetch`.
    """

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Response:
        """Send GET to base URL + `path`, with `params` as the query, and return the response.

        A repeated request is sent as a conditional request. If the upstream returns 304, the response has the stored
        body, so a source need not handle that case.
        """

    def post(self, path: str, json: Any, params: Mapping[str, str | int] | None = None) -> Response:
        """Send POST to base URL + `path`, with a JSON body, and return the response.

        Use it to read data only: a request may be repeated after an error. It is never conditional.
        """

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None, path: str = "") -> Response:
        """Send a GraphQL query to base URL + `path`, and return the response.

        Raise TransientError with the messages of the upstream if the response has errors and no data.
        """


_PAGE_RULES = {
    "cursor": Rule('a JSON object such as {"next": 2}, without times and Decimals, or None', is_json, is_typed=False),
    "request": Rule("a JSON object without times and Decimals", is_json),
    "fetched_at": Rule("an aware datetime, such as response.fetched_at", lambda at: at.tzinfo is not None),
}


@dataclass(frozen=True)
class Page:
    """The unit of work: one body, loaded in one transaction together with the cursor after it.

    If one `fetch` call yields the same request with the same cursor twice, it is in a loop, and the run waits.
    """

    body: bytes
    """The data as received; it is archived and can be replayed."""

    content_type: str

    request: dict[str, Any]
    """The request as JSON without secrets. `parse` may use it if the body alone is not enough."""

    fetched_at: datetime
    """The time of the fetch (aware, UTC). An observation may be later than this by at most the clock skew."""

    cursor: Cursor | None
    """The position to resume from after this page is committed. The next call gets it as `Window.cursor`."""

    status: int = 200

    confirm: Callable[[], None] | None = None
    """Called right before the commit. For an outdated body it raises TransientError, and the page is rolled back."""

    corrects: bool = True
    """Whether the page overwrites stored quotes that have other values. New quotes are always inserted."""

    notice: str | None = None
    """Something unusual about the response, which does not prevent loading it. Logged as `response_unusual`."""

    waiting: str | None = None
    """The data after this page that is not read yet because it may be incomplete, and how to complete it. Logged."""

    response: Response | None = None
    """The response that this page was made from. An unchanged response is neither parsed nor loaded again."""

    def __post_init__(self) -> None:
        check_members(self, "Page", _PAGE_RULES)

    @classmethod
    def of(cls, response: Response, cursor: Cursor | None) -> Page:
        """Return a response as a page. Unlike the constructor, this enables conditional requests."""
        return cls(
            response.body,
            response.content_type,
            response.request,
            response.fetched_at,
            cursor,
            response.status,
            response=response,
        )

    @cached_property
    def digest(self) -> bytes:
        """Return the SHA-256 digest of the body."""
        return sha256(self.body).digest()

    @property
    def is_whole_response(self) -> bool:
        """Return whether the page is a whole and unmodified response."""
        return self.response is not None and (self.body, self.request) == (self.response.body, self.response.request)

    @property
    def unchanged(self) -> bool:
        """Return whether the page is a whole response that was loaded before."""
        return self.response is not None and self.response.unchanged and self.is_whole_response


@dataclass(frozen=True)
class Columns:
    """The items of a page as columns of one frame, with the values that `normalize` would return."""

    frame: polars.DataFrame
    """One row per item, except for `items_without_row`. The column `item` has the item's index in the page, from 0.

    Each other column is named after a field of the unified record. Its values are text, or null if unknown.
    `observed_at` may also have times in UTC.
    """

    item_at: Callable[[int], Item]
    """Return the item with this index, as `parse` yields it. Called for items that need the row validator."""

    fetched: int
    """The number of items, without blank rows."""

    blank: int = 0
    """The number of blank rows."""

    items_without_row: Mapping[int, Item] = field(default_factory=dict)
    """The items without a row in the frame, by index."""

    left_out: int = 0
    """The number of items that were left out. `fetched` does not include them."""
