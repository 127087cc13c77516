"""What a source is, and what passes between it and the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    import polars

Item = Any
"""What `parse` yields for one future quote; opaque to the pipeline, which only hands it to `normalize`."""

Cursor = Mapping[str, Any]
"""Where the next fetch of a partition starts: JSON that the source owns."""

BLANK: Final = object()
"""What `parse` yields for a row with nothing in it: no item, counted apart."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

LONGEST_WAIT: Final = 32 * 86_400.0
"""Seconds: until the next month, when every budget is new."""

UNTIL_RESUMED: Final = timedelta(days=365_000)
"""A pause that somebody has to end."""

WHOLE: Final = ""
"""The partition of a source that has only one."""

DriftPolicy = Literal["evolve", "discard", "quarantine", "freeze"]
"""What follows where a field of a source's items is new, gone, renamed or of another type (tasks/drift/watch.py):
it is noted, and all goes on; the field becomes null; the items it affects are rejected; nothing of the page is loaded,
the run fails, and the source is paused. A new field that the mapping does not use is only noted."""

CatchUp = Literal["latest", "all", "skip"]
"""What becomes of the slots that nobody could ask for, when somebody can again (tasks/schedule.py):
one run of the present slot, at once; a run for each of them, oldest first; or none, and on with the next slot."""


class TransientError(Exception):
    """The upstream cannot answer now; the run waits and goes on later.

    retry_after: seconds to wait at the least, where the upstream or a limit of our own said so.
    is_failure:  False where we ourselves hold the call back (rate, budget, breaker): the upstream was not asked, and
                 the wait is not one of those after which a run gives up.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str = "upstream_unavailable",
        retry_after: float | None = None,
        is_failure: bool = True,
    ):
        super().__init__(detail)
        self.detail, self.code, self.is_failure = detail, code, is_failure
        # What is no number of seconds that can be waited says nothing.
        self.retry_after = min(retry_after, LONGEST_WAIT) if retry_after is not None and retry_after >= 0 else None


class TerminalError(Exception):
    """Waiting will not help; a person must act. pause: how long the source should not be run again."""

    def __init__(self, detail: str, *, code: str = "upstream_refused", pause: timedelta | None = None):
        super().__init__(detail)
        self.detail, self.code, self.pause = detail, code, pause


class Reject(Exception):
    """An item cannot become a quote. `parse` may also yield one, with the item, for what it cannot even read."""

    def __init__(self, field: str, code: str, detail: str, *, item: Item = None):
        super().__init__(f"{field}: {detail}")
        self.reasons = [{"field": field, "code": code, "detail": detail}]
        self.item = item

    @classmethod
    def because(cls, reasons: list[dict[str, str]]) -> Reject:
        """One reject for several reasons, each a {"field", "code", "detail"}."""
        reject = cls(**reasons[0])
        reject.reasons = reasons
        return reject


@dataclass(frozen=True)
class Window:
    """What one slice of a run is to fetch of one partition."""

    run: str
    partition: str
    cursor: Cursor | None
    now: datetime
    """The database's time when the slice began (aware, UTC)."""
    slot: datetime | None = None
    """The slot of the schedule that the run is for (aware, UTC), which may be long over; None: asked for by hand."""
    skew: timedelta = timedelta()
    """How far the upstream's clock may be ahead."""

    @property
    def latest(self) -> datetime:
        """The last instant an observation may have. A cursor that is a time must never be later than this.

        One record that says 2999 would keep all that comes until then from ever being asked for.
        """
        return self.now + self.skew


@dataclass(frozen=True)
class Response:
    """A successful answer of an upstream: status 200, body whole and unpacked, secrets not in the request.

    Or status 304: what the upstream answered to this request before still holds, and is the body.
    etag, last_modified: as sent, for asking again whether the answer changed.
    unchanged: the body is the one that was last brought in for this request.
    """

    body: bytes
    status: int
    content_type: str
    request: dict[str, Any]
    fetched_at: datetime
    etag: str | None = None
    last_modified: str | None = None
    unchanged: bool = False


class Http(Protocol):
    """One source's access to its own upstream: base URL, key, limits, breaker, timeouts and repeats are in it."""

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Response:
        """GET base URL + path. Raises TransientError or TerminalError for everything but an answer.

        Where the request was made before, it asks whether the answer changed.
        """


@dataclass(frozen=True)
class Page:
    """The unit of work: a body as received, and the cursor at which to resume once it is in.

    request: what was asked, as JSON; `parse` may read from it what the body alone does not say.
    One request and one cursor make two pages of a slice only where `fetch` goes in a circle: it is stopped there.
    """

    body: bytes
    content_type: str
    request: dict[str, Any]
    fetched_at: datetime
    cursor: Cursor | None
    status: int = 200
    confirm: Callable[[], None] | None = None
    """Called right before the page is committed; raises TransientError if the body is no longer what there is."""
    corrects: bool = True
    """Whether quotes that are there, and say something else, are corrected by it."""
    reply: Response | None = None
    """The answer that the page is, just as it came. One that is unchanged is not parsed and loaded again."""

    @classmethod
    def of(cls, reply: Response, cursor: Cursor | None) -> Page:
        return cls(reply.body, reply.content_type, reply.request, reply.fetched_at, cursor, reply.status, reply=reply)

    @cached_property
    def digest(self) -> bytes:
        return sha256(self.body).digest()

    @property
    def is_the_reply(self) -> bool:
        """Whether the page is all that the upstream answered: no part of it, and nothing made of it."""
        return self.reply is not None and (self.body, self.request) == (self.reply.body, self.reply.request)

    @property
    def unchanged(self) -> bool:
        return self.reply is not None and self.reply.unchanged and self.is_the_reply


@dataclass(frozen=True)
class HistoryWindow:
    """What is to be fetched of a listing's past: what was observed from `since` on, before `until` (aware, UTC).

    listing: its source_asset_id, symbol, name and quote_currency.
    """

    listing: Mapping[str, str]
    since: datetime
    until: datetime


@dataclass(frozen=True)
class History:
    """How a source tells of the past, of one listing at a time.

    span:      the longest time that one request may ask for.
    fetch:     asks for some of it. parse, normalize: as the source's own; `page.request["listing"]` is `Past.listing`.
    """

    span: timedelta
    fetch: Callable[[HistoryWindow, Http], Response]
    parse: Callable[[Page], Iterable[Item]]
    normalize: Callable[[Item], Mapping[str, Any]]


@dataclass(frozen=True)
class Columns:
    """A page's items side by side: what `normalize` would say of each, read column by column.

    frame: a row for each item. `item` is its place among the page's items, from 0; each other column has the name of
           a field of the unified record, and is text (null: unknown), `observed_at` also a time in UTC.
    apart: items that are in no row, by their place.
    item:  the item of a row, by its place, as `parse` yields it: for those that need a closer look.
    """

    frame: polars.DataFrame
    item: Callable[[int], Item]
    fetched: int
    blank: int = 0
    apart: Mapping[int, Item] = field(default_factory=dict)


@dataclass(frozen=True)
class Upstream:
    """Where a plan of an upstream's is served, and the header that carries its key (none: it takes no key)."""

    url: str
    key_header: str | None = None


@dataclass(frozen=True)
class Rate:
    """What an upstream allows; enforced over all workers. None: no limit."""

    per_minute: int | None = None
    per_month: int | None = None


@dataclass(frozen=True)
class Retention:
    """How long what a source brought is kept; what is older has expired. None: for ever.

    quotes: counted from when they were observed. The newest of each listing never expires.
    bodies: counted from when they were last received.
    """

    quotes: timedelta | None = None
    bodies: timedelta | None = None


@dataclass(frozen=True)
class Source:
    """One upstream under one name: what is different about it. All that sources share is the pipeline's.

    fetch:      the only part that does input and output. Yields pages, each with its own resume cursor;
                it is closed, not exhausted, at the end of a slice, and called again with the cursor of the last
                page that was committed.
    parse:      a page's body to items, one for each future quote; pure.
    normalize:  an item to the unified record, by its field names (sources/record.py); pure. Raises Reject, or
                leaves a value as it is for the record to judge.
    columns:    the same as `parse` and `normalize`, for many items at once and many times as fast; None for a page
                that it cannot read. For files of millions of rows, and bound to say the same. With it, a page is
                fetched and read while the one before it is loaded, and the first of a partition while the last of
                another is: without a lease, and now and then in vain.
    partitions: what has a checkpoint of its own, named anew at each slice.
    is_shared:  several workers may bring in partitions of one run at the same time.
    catch_up:   what becomes of the slots that an outage or a pause took. `all` is for a fetch that heeds
                `window.slot`; one that brings what there is now brings it once with `latest`.
    fresh:      within what a good run is expected; later, the source has fallen behind. None: three times `every`.
    drift:      by field (`quotes.USD.price`) what follows when it changes, by `*` for all others: `evolve`, unless said
                otherwise. `<NAME>_DRIFT` comes before it.
    format:     of a page, where a source has pages of several: each has fields of its own.
    history:    how it tells of the past; None: it does not, and cannot be backfilled.
    retention:  how long what it brought is kept. `<NAME>_QUOTES_KEPT` and `<NAME>_BODIES_KEPT` come before it.
    upstreams:  by plan; the first that takes no key serves without one, the first that takes one serves with one,
                unless `<NAME>_PLAN` says otherwise. Empty: the source speaks no HTTP.
    """

    name: str
    every: timedelta
    fetch: Callable[[Window, Http], Iterator[Page]]
    parse: Callable[[Page], Iterable[Item]]
    normalize: Callable[[Item], Mapping[str, Any]]
    rate: Rate = field(default_factory=Rate)
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    columns: Callable[[Page], Columns | None] | None = None
    partitions: Callable[[], Iterable[str]] = lambda: (WHOLE,)
    is_shared: bool = False
    catch_up: CatchUp = "latest"
    retention: Retention = field(default_factory=Retention)
    fresh: timedelta | None = None
    drift: Mapping[str, DriftPolicy] = field(default_factory=dict)
    format: Callable[[Page], str] = lambda _: ""
    history: History | None = None

    def slot_at(self, now: datetime) -> datetime:
        """The slot of the schedule that `now` lies in: intervals are counted from the epoch, in UTC."""
        return EPOCH + (now - EPOCH) // self.every * self.every
