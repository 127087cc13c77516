"""Define the contract between a source and the pipeline: what a source declares, and the functions that it provides.

Start at `Source`, at the end of this module. sources/pages.py defines the arguments and results of its functions.
sources/coinpaprika.py is a short example, and docs/howto/add-http-source.md is a guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

# Re-exported for imports from this module.
from settings import CatchUp as CatchUp
from settings import DriftPolicy as DriftPolicy
from sources import declarations, functions
from sources.auth import Auth, check_headers
from sources.declarations import DeclarationError as DeclarationError
from sources.errors import LIFTED_BY_SETTINGS as LIFTED_BY_SETTINGS
from sources.errors import UNTIL_RESUMED as UNTIL_RESUMED
from sources.errors import Reject as Reject
from sources.errors import TerminalError as TerminalError
from sources.errors import TransientError as TransientError
from sources.pages import BLANK as BLANK
from sources.pages import LEFT_OUT as LEFT_OUT
from sources.pages import Columns as Columns
from sources.pages import Cursor as Cursor
from sources.pages import Http as Http
from sources.pages import Item as Item
from sources.pages import Page as Page
from sources.pages import Response as Response
from sources.pages import Window as Window

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

ONLY_PARTITION: Final = ""
"""The partition of a source that has only one."""

LEAST_GOOD: Final = 0.5
"""The default of `Source.least_good`."""

PART_SEPARATOR: Final = "//"
"""Separates the name of a partition from a part of it, such as a range of a file. A part may vanish: a file shrinks."""

RESERVED_PREFIXES: Final = ("replay:", "backfill:")
"""Prefixes of the partitions of replays and backfills. The partitions of a source must not use them."""


@dataclass(frozen=True)
class HistoryWindow:
    """The input of one backfill request: a listing, and a time range that includes `since` and excludes `until`."""

    listing: Mapping[str, str]
    """The listing's source_asset_id, symbol, name and quote_currency."""

    since: datetime
    until: datetime
    """Both times are aware, UTC."""


@dataclass(frozen=True)
class History:
    """The functions that fetch a listing's past data. Only backfills use them."""

    span: timedelta
    """The maximum time range of one request."""

    fetch: Callable[[HistoryWindow, Http], Response]
    """Request one window. If it raises TerminalError without a pause, the window is recorded as refused."""

    parse: Callable[[Page], Iterable[Item]]
    """Like `Source.parse`. `page.request["listing"]` is `HistoryWindow.listing`."""

    normalize: Callable[[Item], Mapping[str, Any]]
    """Like `Source.normalize`, for these items. An item must be a dict."""

    def __post_init__(self) -> None:
        declarations.check_members(self, "History", declarations.HISTORY)
        functions.check_functions(self, "History", functions.HISTORY)


@dataclass(frozen=True)
class Upstream:
    """One plan of an upstream: its base URL, and how its requests carry the API key."""

    url: str
    key_header: str | None = None
    """The header for the API key, for short. None: the plan takes no key, or `auth` declares its place."""

    auth: tuple[Auth, ...] = ()
    """Other places of the key and its secret, signatures and tokens (sources/auth.py), in the order to apply them."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of each request, without secrets."""

    def __post_init__(self) -> None:
        declarations.check_members(self, "Upstream", declarations.UPSTREAM)
        check_headers(self.headers)


@dataclass(frozen=True)
class Rate:
    """The maximum number of requests of all workers together, including retries. None: no limit."""

    per_minute: int | None = None
    per_month: int | None = None
    """Per calendar month in UTC."""

    def __post_init__(self) -> None:
        declarations.check_members(self, "Rate", declarations.RATE)


@dataclass(frozen=True)
class Retention:
    """How long a source's data is stored before it is deleted. None: forever."""

    quotes: timedelta | None = None
    """The maximum age since the quote was observed. The newest quote of each listing is never deleted."""

    bodies: timedelta | None = None
    """The maximum age since the raw body was last received."""

    def __post_init__(self) -> None:
        declarations.check_members(self, "Retention", declarations.RETENTION)


@dataclass(frozen=True)
class Source:
    """The declaration of one source. The pipeline does everything that is the same for all sources.

    Only `fetch`, `partitions` and `History.fetch` may do input and output. The other functions must be pure. They may
    be called again for the same page, in other processes, and years later in a replay.

    All functions except `normalize` may raise TransientError or TerminalError (sources/errors.py). Any other exception
    is a bug of the source: the run fails as `source_error` with the file and line, and its committed pages remain
    stored. A wrong declaration raises DeclarationError, and the source is shown as broken.
    """

    name: str
    """A letter and up to 62 letters, digits and underscores, in lower case. Its environment
    variables start with it in upper case."""

    every: timedelta
    """The interval of the schedule. Slots are counted from 1970-01-01 in UTC. Override: `<NAME>_EVERY`."""

    fetch: Callable[[Window, Http], Iterator[Page]]
    """Yield pages from `window.cursor` on, each with the cursor to resume from after it.

    Called for each partition of a run, and again after a wait or an interruption. Each page is committed before the
    next is requested, unless the source has `columns`. The iterator may be closed early. It must terminate, and may
    yield nothing.
    """

    parse: Callable[[Page], Iterable[Item]]
    """Return the items of a page's body, one for each quote.

    Include a Reject for an unreadable item, BLANK for an empty row, and LEFT_OUT for each item that is no quote of this
    source. So every item of the body is counted. Raise TransientError for a wrong body, such as
    an error page with status 200. An empty list would count as a success.
    """

    normalize: Callable[[Item], Mapping[str, Any]]
    """Return an item as the unified record, with the field names of `Quote` (sources/record.py).

    Pass values unchanged: text, int, Decimal or aware datetime, never float. The record validates them. Raise Reject to
    reject an item. Any other exception rejects the item as `unmappable`. The page's other items are loaded.
    """

    rate: Rate = field(default_factory=Rate)
    """The rate limits of the upstream. Overrides: `<NAME>_CALLS_PER_MINUTE`, `<NAME>_CALLS_PER_MONTH`."""

    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    """The upstream's plans by name. Empty: the source uses no HTTP.

    The first plan that takes exactly the secrets that are set is used: `<NAME>_API_KEY`, `<NAME>_API_SECRET` and
    `<NAME>_API_PASSPHRASE`. Without a secret, it is the first plan without a key. Override: `<NAME>_PLAN`.
    """

    columns: Callable[[Page], Columns | None] | None = None
    """Parse and normalize a whole page at once, for files with millions of rows.

    The result must be the same as that of `parse` and `normalize`. Return None for a page that must be read row by row.
    Pages of a source with `columns` are prefetched. `fetch` may then run before earlier pages are committed and before
    the partition is leased, and its pages may be discarded.
    """

    partitions: Callable[[], Iterable[str]] = lambda: (ONLY_PARTITION,)
    """Return the names of the partitions, such as files. Each partition has its own checkpoint.

    Called at the start of each slice of a run. A failed partition does not stop the others. No name may start
    with `replay:` or `backfill:`.
    """

    is_shared: bool = False
    """Whether several workers may load partitions of one run at the same time."""

    catch_up: CatchUp = "latest"
    """The policy for slots that were missed during an outage or a pause. Override: `<NAME>_CATCH_UP`.

    latest: the current slot gets a run at once; the slots before it get none.
    all:    each missed slot gets a run, oldest first. Choose it only if `fetch` uses `window.slot`.
    skip:   no missed slot gets a run; the schedule continues with the next slot.
    """

    retention: Retention = field(default_factory=Retention)
    """How long data is stored. Overrides: `<NAME>_QUOTES_KEPT`, `<NAME>_BODIES_KEPT`."""

    fresh: timedelta | None = None
    """The maximum age of the last good run. Beyond it, the source is late. None: three times `every`. Override:
    `<NAME>_FRESH`."""

    drift: Mapping[str, DriftPolicy] = field(default_factory=dict)
    """The policies for changed fields, by path in the item, such as `quotes.USD.price`. Override: `<NAME>_DRIFT`.

    `*` stands for all other fields. The default is `evolve`. A field changes if it is new, removed, renamed or retyped.

    evolve:     the change is recorded, and loading goes on.
    discard:    the changed field becomes null in each affected item.
    quarantine: each affected item is rejected.
    freeze:     the page is not loaded, the run fails, and the source is paused until a person resumes it.

    Under each policy, a new field that `normalize` does not read is only recorded.
    """

    format: Callable[[Page], str] = lambda _: ""
    """Return the name of a page's format, for a source with several formats. Drift is detected within each format."""

    least_good: float = LEAST_GOOD
    """The least share of a page's items that must become quotes, from 0 to 1. Below it, a run is `partial`."""

    expects: int | None = None
    """The least number of items in a run that reads something. With fewer, the run is `partial`. None: any number."""

    partitions_stay: bool = True
    """Whether a missing partition that was read before degrades the source. False: partitions may be removed, such as
    files that are deleted after they were loaded."""

    history: History | None = None
    """The source's past data. None: it cannot be backfilled."""

    replaces: bool = False
    """Whether the source's partitions, such as files, together are the whole truth about the source.

    If so, a full refresh retracts each stored quote that no record yields any longer. `fetch` must yield nothing if it
    starts at the cursor of a partition that has not changed. The source must have neither `upstreams` nor `history`.
    """

    def __post_init__(self) -> None:
        subject = f"source {declarations.shown(self.name)}"
        declarations.check_members(self, subject, declarations.SOURCE)
        functions.check_functions(self, subject, functions.SOURCE)
        if self.replaces and (self.upstreams or self.history):
            raise declarations.wrong(
                subject,
                "replaces=True needs a source that yields all its quotes in each full refresh, such as files; remove "
                "it from a source with upstreams or a history",
            )

    def slot_at(self, now: datetime) -> datetime:
        """Return the start of the slot in the schedule that contains `now`."""
        return EPOCH + (now - EPOCH) // self.every * self.every
