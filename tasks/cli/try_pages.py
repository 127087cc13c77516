"""Fetch the first pages of a source without Postgres and Redis, or read a page from a file."""

from __future__ import annotations

import mimetypes
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from settings import Settings, SettingsError, get_settings
from sources.contract import Cursor, Http, Page, Source, TerminalError, TransientError, Window
from sources.csv.file_names import name_partition
from sources.csv.source import has_file_set, is_csv_source
from sources.http.authentication import Authenticator
from sources.http.client import HttpClient
from sources.http.exchange import Access
from sources.http.plans import upstream_address
from tasks.pipeline.fetch import fetch_pages
from tasks.pipeline.source_errors import own_code

MINUTE = 60.0
"""The window of a rate limit, in seconds."""


class EnoughPages(TransientError):
    """A request was not sent, because enough pages were read."""

    def __init__(self) -> None:
        # With retry_after, the client does not repeat the request.
        super().__init__("enough pages were read", retry_after=1, is_failure=False)


class CallLimit:
    """Limit the calls of this process as `Source.rate` declares. Other processes are not counted."""

    def __init__(self, source: Source):
        self._name, self._rate = source.name, source.rate
        self._times: deque[float] = deque(maxlen=source.rate.per_minute)
        self._calls = 0
        self.is_closed = False

    def spend(self) -> None:
        """Count a call. Raise TransientError if the limit is reached, or if no further call is wanted."""
        if self.is_closed:
            raise EnoughPages
        now = time.monotonic()
        is_full = len(self._times) == self._times.maxlen
        if is_full and (seconds := self._times[0] + MINUTE - now) > 0:
            raise self._forbid(f"{self._rate.per_minute} calls per minute", "rate_limited", seconds)
        if self._calls == self._rate.per_month:
            raise self._forbid(f"{self._rate.per_month} calls per month", "budget_spent", None)
        self._times.append(now)
        self._calls += 1

    def _forbid(self, limit: str, code: str, seconds: float | None) -> TransientError:
        return TransientError(
            f"{self._name}: the limit of {limit} is reached", code=code, retry_after=seconds, is_failure=False
        )


class FirstPages:
    """Read the first pages of a source, as a run would that has no cursor.

    partitions: the names of the partitions to read, in this order. None: those that the source names.
    wait:       called with the seconds until the rate limit allows the next call.
    """

    def __init__(
        self,
        source: Source,
        partitions: Sequence[str] | None = None,
        wait: Callable[[float], None] = time.sleep,
    ):
        self._source, self._wait = source, wait
        self._limit, self._run = CallLimit(source), str(uuid.uuid4())
        self._partitions = partitions
        self.is_whole = False
        """Whether `fetch` has ended by itself after the last page of the last partition."""

    def read(self, count: int) -> Iterator[tuple[str, Page]]:
        """Yield up to `count` pages, each with its partition. Raise TransientError or TerminalError."""
        with closing(HttpClient(_access(self._source, get_settings(), self._limit))) as http:
            for partition in self._names():
                for page in self._read_partition(partition, http, count):
                    count -= 1
                    yield partition, page
                if not count:
                    return

    def _names(self) -> list[str]:
        if self._partitions is not None:
            return list(self._partitions)
        with own_code(self._source):
            return list(self._source.partitions())

    def _read_partition(self, partition: str, http: Http, count: int) -> Iterator[Page]:
        """Yield up to `count` pages. After a wait for the rate limit, resume at the last cursor, as a run does."""
        cursor: Cursor | None = None
        self.is_whole = False
        while True:
            try:
                with closing(fetch_pages(self._source, self._window(partition, cursor), http)) as pages:
                    for page in pages:
                        if not count:
                            return
                        yield page
                        count, cursor = count - 1, page.cursor
                        # The next call of `fetch` shows whether it would go on. It must not send a request for that.
                        self._limit.is_closed = not count
                self.is_whole = True
                return
            except EnoughPages:
                return
            except TransientError as error:
                if error.is_failure or error.retry_after is None:
                    raise
                self._wait(error.retry_after)

    def _window(self, partition: str, cursor: Cursor | None) -> Window:
        now, skew = _now(), timedelta(seconds=get_settings().clock_skew)
        return Window(self._run, partition, cursor, now, self._source.slot_at(now), skew)


def _access(source: Source, settings: Settings, limit: CallLimit) -> Access:
    try:
        address = upstream_address(source)
    except SettingsError as error:
        raise TerminalError(str(error), code="misconfigured") from None
    return Access(
        source=source.name,
        url=address.url,
        auth=Authenticator(address.credentials, _now),
        deadline=settings.request_deadline,
        max_body_bytes=settings.max_body_bytes,
        max_body_values=settings.max_body_values,
        spend=limit.spend,
        record_result=lambda _: None,
        clock=_now,
        contact=settings.user_agent_contact,
    )


def _now() -> datetime:
    return datetime.now(UTC)


def body_page(source: Source, file: Path) -> Page:
    """Return a file as the body of a response to the base URL. Raise TerminalError if it cannot be read."""
    try:
        body = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None
    try:
        url = upstream_address(source).url
    except SettingsError:  # A body can be read without the key.
        url = ""
    content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    request = {"method": "GET", "url": url, "params": {}}
    return Page(body, content_type, request, _now(), None)


@contextmanager
def csv_partition(source: Source, file: Path) -> Iterator[str]:
    """Yield the name of the partition of a file, with CSV_DIR set to a folder above it that a file set expects."""
    with _csv_dir_above(source, file) as path:
        yield name_partition(path)


@contextmanager
def _csv_dir_above(source: Source, file: Path) -> Iterator[str]:
    try:
        file = file.resolve(strict=True)
    except OSError as error:
        raise _unreadable(file, error) from None
    csv_dir = get_settings().csv_dir
    folders = [*([Path(csv_dir).resolve()] if csv_dir else []), *file.parents]
    for folder in folders:
        if file.is_relative_to(folder) and has_file_set(source, path := file.relative_to(folder).as_posix()):
            with _environment("CSV_DIR", str(folder)):
                yield path
            return
    raise TerminalError(
        f"{source.name}: {file}: no file set has a pattern that matches it; declare one, or rename the file",
        code="file_undeclared",
    )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    get_settings.cache_clear()
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before
        get_settings.cache_clear()


def _unreadable(file: Path, error: OSError) -> TerminalError:
    return TerminalError(f"{file}: {error.strerror or type(error).__name__}", code="file_unreadable")


def try_pages(
    source: Source, count: int, file: Path | None, wait: Callable[[float], None] = time.sleep
) -> Iterator[tuple[str, Page, bool]]:
    """Yield up to `count` pages, each with its partition or file, and whether `fetch` has ended after it by itself.

    file: a CSV file for a source of CSV files; otherwise the body of a response. wait: see FirstPages.
    """
    if file and not is_csv_source(source):
        yield str(file), body_page(source, file), False
        return
    if file:
        with csv_partition(source, file) as partition:
            yield from _read(FirstPages(source, [partition], wait), count)
        return
    yield from _read(FirstPages(source, wait=wait), count)


def _read(pages: FirstPages, count: int) -> Iterator[tuple[str, Page, bool]]:
    """Yield each page when it is known whether another one follows."""
    last: tuple[str, Page] | None = None
    try:
        for entry in pages.read(count):
            if last:
                yield *last, last[0] != entry[0]
            last = entry
    except (TransientError, TerminalError):
        if last:
            yield *last, False
        raise
    if last:
        yield *last, pages.is_whole
