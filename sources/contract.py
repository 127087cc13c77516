"""Define the contract between a source and the pipeline: what a source declares, receives, yields and may raise.

Start at `Source`, at the end of this module. sources/coinpaprika.py is a short example;
docs/howto/add-http-source.md is a guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

# Named again, so that they can be imported from here as well.
from sources.errors import UNTIL_RESUMED as UNTIL_RESUMED
from sources.errors import Reject as Reject
from sources.errors import TerminalError as TerminalError
from sources.errors import TransientError as TransientError

if TYPE_CHECKING:
    import polars

Item = Any
"""What `parse` yields: the raw data of one future quote. Only the source's own functions look inside."""

Cursor = Mapping[str, Any]
"""The position in a partition at which the next fetch starts. JSON, in a form of the source's choice."""

BLANK: Final = object()
"""What `parse` yields for a row without content. It is counted as blank, and neither loaded nor rejected."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

ONLY_PARTITION: Final = ""
"""The partition of a source that has only one."""

DriftPolicy = Literal["evolve", "discard", "quarantine", "freeze"]
"""What happens when a field of the items is new, removed, renamed or of another type (tasks/drift/watch.py).

evolve:     the change is recorded, and loading goes on.
discard:    the changed field becomes null in each affected item.
quarantine: each affected item is rejected.
freeze:     the page is not loaded, the run fails, and the source is paused until somebody resumes it.

A new field that `normalize` does not read is only recorded, whatever the policy.
"""

CatchUp = Literal["latest", "all", "skip"]
"""What happens to the slots that were missed during an outage or a pause (tasks/schedule.py).

latest: the current slot gets a run at once; the slots before it get none.
all:    each missed slot gets a run, oldest first.
skip:   no missed slot gets a run; the schedule continues with the next slot.
"""


@dataclass(frozen=True)
class Window:
    """The task of one call of `fetch`: to read on in one partition, for one run."""

    run: str
    """The run's id, a UUID."""

    partition: str
    """A name that `Source.partitions` returned."""

    cursor: Cursor | None
    """The cursor of the partition's last committed page, of any run. None: start at the beginning."""

    now: datetime
    """The database's time when this call was prepared (aware, UTC). Use it instead of the host's clock."""

    slot: datetime | None = None
    """The start of the schedule's slot that the run fills (aware, UTC); it may be long past. None: a manual run."""

    skew: timedelta = timedelta()
    """How far the upstream's clock may be ahead of ours."""

    @property
    def latest(self) -> datetime:
        """The latest time that an observation may have (aware, UTC). A cursor that is a time must not pass it.

        Otherwise one record dated 2999 would hide everything that follows: the run fails as `cursor_in_future`.
        """
        return self.now + self.skew


@dataclass(frozen=True)
class Response:
    """A successful response of an upstream: status 200, or 304 for a conditional request."""

    body: bytes
    """The whole body, decompressed. For a 304, the stored body that is still valid."""

    status: int

    content_type: str

    request: dict[str, Any]
    """The request without its key: {"method", "url", "params"}."""

    fetched_at: datetime
    """The database's time right before the request (aware, UTC)."""

    etag: str | None = None
    last_modified: str | None = None
    """The validators as the upstream sent them; None if they cannot be used for a conditional request."""

    unchanged: bool = False
    """Whether the body equals the one that was last loaded for this request."""


class Http(Protocol):
    """A source's access to its own upstream. It applies the base URL, key, limits, timeouts, retries and breaker."""

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Response:
        """Return the response to GET base URL + `path`, with `params` as the query.

        If the request was made before, it is conditional: ask as if for the first time, and get the stored body.
        Raises TransientError or TerminalError for anything but a success; let them pass through `fetch`.
        """


@dataclass(frozen=True)
class Page:
    """The unit of work: one body, loaded in one transaction together with the cursor that follows it.

    If `fetch` yields the same request with the same cursor twice in one call, it is in a loop, and the run waits.
    """

    body: bytes
    """The data as received; it is archived and can be replayed."""

    content_type: str

    request: dict[str, Any]
    """What was requested, as JSON without secrets. `parse` may use it where the body alone is not enough."""

    fetched_at: datetime
    """When the data was fetched (aware, UTC). An observation may be later than this by the clock skew at most."""

    cursor: Cursor | None
    """The position at which to resume once this page is committed. It becomes `Window.cursor` of the next call."""

    status: int = 200

    confirm: Callable[[], None] | None = None
    """Called right before the commit. Raises TransientError if the body is outdated: the page is then rolled back."""

    corrects: bool = True
    """Whether the page overwrites existing quotes that have other values. New quotes are inserted in any case."""

    response: Response | None = None
    """The response that this page was made from. An unchanged one is neither parsed nor loaded again."""

    @classmethod
    def of(cls, response: Response, cursor: Cursor | None) -> Page:
        """Return a response as a page. Use this rather than the constructor: it enables conditional requests."""
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
        """The SHA-256 of the body."""
        return sha256(self.body).digest()

    @property
    def is_whole_response(self) -> bool:
        """Whether the page is the whole response: not a part of it, and not derived from it."""
        return self.response is not None and (self.body, self.request) == (self.response.body, self.response.request)

    @property
    def unchanged(self) -> bool:
        """Whether the page is a whole response that was loaded before."""
        return self.response is not None and self.response.unchanged and self.is_whole_response


@dataclass(frozen=True)
class HistoryWindow:
    """The task of one request of a backfill: the observations of one listing from `since` until before `until`."""

    listing: Mapping[str, str]
    """The listing's source_asset_id, symbol, name and quote_currency."""

    since: datetime
    until: datetime
    """Both aware, UTC."""


@dataclass(frozen=True)
class History:
    """How a source serves the past, one listing at a time. Used by backfills only."""

    span: timedelta
    """The longest time that one request may cover."""

    fetch: Callable[[HistoryWindow, Http], Response]
    """Request one window. If it raises TerminalError without a pause, the window is recorded as refused."""

    parse: Callable[[Page], Iterable[Item]]
    """As `Source.parse`. `page.request["listing"]` is `HistoryWindow.listing`."""

    normalize: Callable[[Item], Mapping[str, Any]]
    """As `Source.normalize`, for these items. An item must be a dict."""


@dataclass(frozen=True)
class Columns:
    """The items of a page as columns: what `normalize` would return for each, in one frame."""

    frame: polars.DataFrame
    """One row per item, except for `items_without_row`. The column `item` is the item's index in the page, from 0.

    Each other column is named like a field of the unified record. It has text, null if unknown; `observed_at` may also
    have times in UTC.
    """

    item_at: Callable[[int], Item]
    """Returns the item with this index, as `parse` yields it. Called for items that need the row validator."""

    fetched: int
    """The number of items, without blank rows."""

    blank: int = 0
    """The number of blank rows."""

    items_without_row: Mapping[int, Item] = field(default_factory=dict)
    """The items that have no row in the frame, by their index."""


@dataclass(frozen=True)
class Upstream:
    """One plan of an upstream: the base URL that serves it, and the header that carries its key."""

    url: str
    key_header: str | None = None
    """None: the plan takes no key."""


@dataclass(frozen=True)
class Rate:
    """The maximum number of requests, retries included, over all workers together. None: no limit."""

    per_minute: int | None = None
    per_month: int | None = None
    """Per calendar month in UTC."""


@dataclass(frozen=True)
class Retention:
    """How long a source's data is stored before it is deleted. None: for ever."""

    quotes: timedelta | None = None
    """Since the quote was observed. The newest quote of each listing is never deleted."""

    bodies: timedelta | None = None
    """Since the raw body was last received."""


@dataclass(frozen=True)
class Source:
    """Everything that is particular about one upstream. The pipeline does the rest.

    Only `fetch`, `partitions` and `History.fetch` may do input and output. The other functions are pure: they are
    called again for the same page, in other processes, and years later in a replay.

    Except for `normalize`, each may raise TransientError or TerminalError (sources/errors.py). Any other exception is a
    bug: the run fails as `internal_error`, and what it committed stays.
    """

    name: str
    """A letter and up to 62 letters, digits and underscores, in lower case. In upper case it prefixes variables."""

    every: timedelta
    """The interval of the schedule. Slots are counted from 1970-01-01 in UTC. Override: `<NAME>_EVERY`."""

    fetch: Callable[[Window, Http], Iterator[Page]]
    """Yields pages from `window.cursor` on, each with the cursor at which to resume after it.

    Called for each partition of a run, and again after a wait or an interruption. A page is committed before the next
    is requested, unless there are `columns`. The iterator may be closed before its end. It must terminate, and may
    yield nothing.
    """

    parse: Callable[[Page], Iterable[Item]]
    """Returns the items of a page's body, one for each future quote.

    May include a Reject for an item that it cannot read, and BLANK for an empty row. If the body is not what was
    requested, such as an error page under status 200, raise TransientError: an empty list would be a success.
    """

    normalize: Callable[[Item], Mapping[str, Any]]
    """Returns an item as the unified record, by the field names of `Quote` in sources/record.py.

    Pass values as they came: text, int, Decimal or aware datetime, never float. The record validates them. Raises
    Reject; any other exception rejects the item as `unmappable`, and the page's other items are loaded.
    """

    rate: Rate = field(default_factory=Rate)
    """What the upstream allows. Overrides: `<NAME>_CALLS_PER_MINUTE`, `<NAME>_CALLS_PER_MONTH`."""

    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    """The upstream's plans by name. Empty: the source uses no HTTP.

    With `<NAME>_API_KEY` the first plan that takes a key is used, otherwise the first that takes none. Override:
    `<NAME>_PLAN`.
    """

    columns: Callable[[Page], Columns | None] | None = None
    """Does the work of `parse` and `normalize` for a whole page at once; for files of millions of rows.

    Its result must be the same. Returns None for a page that must be read row by row. With it, pages are prefetched:
    `fetch` may run ahead of the commits, before the partition is leased, and its pages may be discarded.
    """

    partitions: Callable[[], Iterable[str]] = lambda: (ONLY_PARTITION,)
    """Returns the parts that have a checkpoint of their own, such as files. Called at the start of each slice of a run.

    A partition that fails does not stop the others. No name may begin with `replay:` or `backfill:`.
    """

    is_shared: bool = False
    """Whether several workers may load partitions of one run at the same time."""

    catch_up: CatchUp = "latest"
    """What happens to missed slots. Choose `all` only if `fetch` uses `window.slot`. Override: `<NAME>_CATCH_UP`."""

    retention: Retention = field(default_factory=Retention)
    """How long data is stored. Overrides: `<NAME>_QUOTES_KEPT`, `<NAME>_BODIES_KEPT`."""

    fresh: timedelta | None = None
    """The maximum age of the last good run; older, the source is late. None: three times `every`. Override:
    `<NAME>_FRESH`."""

    drift: Mapping[str, DriftPolicy] = field(default_factory=dict)
    """The policy for a changed field, by its path in the item, such as `quotes.USD.price`; `*` is for all others.

    The default is `evolve`. Override: `<NAME>_DRIFT`.
    """

    format: Callable[[Page], str] = lambda _: ""
    """Returns the name of a page's format, for a source whose pages have several. Drift is detected within a format."""

    history: History | None = None
    """How the source serves the past. None: it cannot be backfilled."""

    def slot_at(self, now: datetime) -> datetime:
        """Return the start of the schedule's slot that contains `now`."""
        return EPOCH + (now - EPOCH) // self.every * self.every
