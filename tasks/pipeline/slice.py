"""A slice of a run: for each partition fetch, normalize and load page after page, until all is in or time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Engine

from settings import Settings, SettingsError
from sources.contract import Source, TerminalError, TransientError
from sources.http.client import Access, HttpClient
from sources.http.plans import upstream_address
from tasks.pipeline.commit import commit_page
from tasks.pipeline.load import Counters
from tasks.pipeline.loop_guard import LoopGuard
from tasks.pipeline.reader import PageReader, PreparedPage
from tasks.pipeline.revalidation import delete_unrequested, mapping_fingerprint
from tasks.run_kinds.source_for_run import RESERVED_PREFIXES, source_for_run
from tasks.runs.claims import Claim
from tasks.runs.leases import Lease, LeaseHeld, PartitionDone, release_lease, take_lease
from tasks.runs.partitions import list_remaining_partitions, raise_final_failures
from tasks.runs.publishing import call_assistants
from tasks.runtime.fault_points import reach
from tasks.runtime.shutdown import is_stopping
from tasks.upstream.circuit_breaker import CircuitBreaker
from tasks.upstream.rate_limits import make_limiter

log = structlog.get_logger()

A_BREATH = 0.5
"""Seconds between two looks at the partitions that assistants are at."""

UPCOMING = 16
"""Among so many that follow a partition, the first that nobody is at is foreseen."""


class SliceEnded(Exception):
    """The slice's time is up, or its worker is to stop; what was committed stays, and the run goes on in the next."""


class Slice:
    """One Celery task's share of a run, for so many seconds. Raises SliceEnded, and what its parts raise."""

    def __init__(
        self, engine: Engine, settings: Settings, source: Source, claim: Claim, *, seconds: float | None = None
    ):
        self._engine, self._settings, self._claim = engine, settings, claim
        self._source = source_for_run(engine, source, claim)
        self._clock = _database_clock(claim.now)
        self._deadline = time.monotonic() + (settings.task_slice if seconds is None else seconds)
        self._mapping = mapping_fingerprint(source)
        self._assistants = 0

    def work(self) -> None:
        """Bring in what is left of the run. A partition that cannot be read does not keep the others out."""
        unsettled: list[TransientError] = []
        with self._reader() as reader:
            untried, waiting = self._partitions_left()
            if self._source.is_shared:
                self._assistants = min(self._settings.run_workers, len(untried) + len(waiting)) - 1
            assisted: list[str] = []
            for place, partition in enumerate(_each_and_again([*untried, *waiting], assisted)):
                try:
                    if place:
                        self._end_in_time()
                    self._work_on(partition, reader, untried[place + 1 : place + 1 + UPCOMING])
                except PartitionDone:
                    continue
                except LeaseHeld as held:
                    if not held.same_run:
                        raise
                    assisted.append(partition)
                except TerminalError as error:
                    self._say_failed(partition, error)
                except (SliceEnded, TransientError) as error:
                    if isinstance(error, TransientError) and error.retry_after is None:
                        log.warning("partition_waiting", partition=partition, code=error.code, reason=error.detail)
                        unsettled.append(error)
                        continue
                    # Said of the slice or of the upstream. To have come to partitions that were not tried is progress.
                    if unsettled and place >= len(untried):
                        raise _after(unsettled[0], error) from None
                    raise
        if unsettled:
            raise unsettled[0]
        raise_final_failures(self._engine, self._claim)

    def assist(self) -> None:
        """Bring in partitions that nobody has tried, beside the slice that holds the run and does all others."""
        with self._reader() as reader:
            untried, _ = self._partitions_left()
            for place, partition in enumerate(untried):
                self._end_in_time()
                try:
                    self._work_on(partition, reader, untried[place + 1 : place + 1 + UPCOMING])
                except (PartitionDone, LeaseHeld):
                    continue
                except TerminalError as error:
                    self._say_failed(partition, error)

    @staticmethod
    def _say_failed(partition: str, error: TerminalError) -> None:
        log.warning("partition_failed", partition=partition, code=error.code, reason=error.detail)

    def _partitions_left(self) -> tuple[list[str], list[str]]:
        partitions = list(self._source.partitions())
        if not partitions:
            log.warning("partitions_missing", hint="the source names no partition; do its files lie elsewhere?")
        if self._claim.kind == "live" and (ours := [name for name in partitions if name.startswith(RESERVED_PREFIXES)]):
            raise TerminalError(f"{self._source.name}: no partition of its own may be named like {ours[0]!r}")
        return list_remaining_partitions(self._engine, self._claim, partitions)

    def _end_in_time(self, trail: LoopGuard | None = None) -> None:
        if is_stopping():
            raise SliceEnded
        if time.monotonic() > self._deadline:
            if trail:
                trail.check_end()
            raise SliceEnded

    def _work_on(self, partition: str, reader: PageReader, upcoming: Sequence[str]) -> None:
        with self._lease(partition) as lease, reader.pages(lease, upcoming) as (pages, trail):
            for ready in pages:
                reach("after_fetch")
                started = time.monotonic()
                seq, counters = self._take_in(lease, trail, ready, reader)
                reader.loaded(counters)
                reach("after_commit")
                log.info(
                    "page_committed",
                    partition=partition,
                    page=seq,
                    duration_seconds=round(time.monotonic() - started, 3),
                    **vars(counters),
                )
                self._call_assistants()
                self._end_in_time(trail)
            if self._source.upstreams:
                delete_unrequested(self._engine, lease)

    def _call_assistants(self) -> None:
        """Once something new has been found, and not for files that nobody touched."""
        if self._assistants > 0:
            call_assistants(self._claim, self._assistants)
            self._assistants = 0

    def _take_in(self, lease: Lease, trail: LoopGuard, ready: PreparedPage, reader: PageReader) -> tuple[int, Counters]:
        page, normalized, rows = ready
        trail.follow(page, None if page.unchanged else normalized)
        normalized.mapping = self._mapping
        trail.check_cursor(page, normalized)
        rows = reader.rows(ready) if rows is None else rows
        return commit_page(self._engine, lease, page, normalized, rows, reader.last_try())

    @contextmanager
    def _lease(self, partition: str) -> Iterator[Lease]:
        # An assistant that is silent for longer is dead, or as good as dead; it loses the page that it is at.
        takeover_after = None if self._claim.assists else self._settings.transaction_timeout
        lease = take_lease(self._engine, self._claim, partition, self._settings.lease, takeover_after=takeover_after)
        try:
            yield lease
        except SoftTimeLimitExceeded:
            raise  # kept: where it stands is where the run, if it is given up, is said to have died
        except TerminalError as error:
            release_lease(self._engine, lease, done=True, failed=error)
            raise
        except TransientError as error:
            release_lease(self._engine, lease, failed=error if error.is_failure else None)
            raise
        except BaseException:
            release_lease(self._engine, lease)
            raise
        else:
            release_lease(self._engine, lease, done=True)

    @contextmanager
    def _reader(self) -> Iterator[PageReader]:
        try:
            url, headers = upstream_address(self._source)
        except SettingsError as error:
            raise TerminalError(str(error), code="misconfigured") from None
        breaker = CircuitBreaker(self._engine, self._source.name, self._settings)
        access = Access(
            source=self._source.name,
            url=url,
            headers=headers,
            deadline=self._settings.request_deadline,
            max_body=self._settings.max_body_bytes,
            spend=make_limiter(self._engine, self._source, breaker),
            answered=breaker.record_result,
            clock=self._clock,
        )
        with (
            closing(HttpClient(access)) as http,
            closing(PageReader(self._engine, self._settings, self._source, self._claim, self._clock, http)) as reader,
        ):
            yield reader


def _each_and_again(partitions: list[str], again: list[str]) -> Iterator[str]:
    """Each of these, and then, now and then, what has been put into `again` meanwhile."""
    yield from partitions
    while again:
        time.sleep(A_BREATH)
        yield from [again.pop(0) for _ in range(len(again))]


def _after(failure: TransientError, end: SliceEnded | TransientError) -> TransientError:
    """The failure of a partition, as the end of a slice that ended for another reason: else it would never count."""
    retry_after = end.retry_after if isinstance(end, TransientError) else None
    return TransientError(failure.detail, code=failure.code, retry_after=retry_after)


def _database_clock(now: datetime) -> Callable[[], datetime]:
    """The database's time, kept on by this host's monotonic clock: hosts' clocks disagree, and jump."""
    started = time.monotonic()
    return lambda: now + timedelta(seconds=time.monotonic() - started)
