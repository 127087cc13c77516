"""Process one slice of a run: fetch, normalize and load the pages of each partition, until the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Engine

from settings import Settings, SettingsError
from sources.contract import RESERVED_PREFIXES, Source, TerminalError, TransientError
from sources.http.authentication import Authenticator
from sources.http.client import HttpClient
from sources.http.exchange import Access
from sources.http.plans import upstream_address
from tasks.pipeline.changed_rows import ListingsLost
from tasks.pipeline.commit import commit_page
from tasks.pipeline.fence import CommitLost
from tasks.pipeline.first_records import FileRefused, FirstRecords
from tasks.pipeline.loop_guard import LoopGuard
from tasks.pipeline.page_row import Counters
from tasks.pipeline.prepare import PagePreparer, PreparedPage
from tasks.pipeline.reader import PageReader
from tasks.pipeline.revalidation import delete_unrequested
from tasks.run_kinds.source_for_run import source_for_run
from tasks.runs.claims import Claim
from tasks.runs.leases import Lease, LeaseHeld, PartitionDone, release_lease, take_lease
from tasks.runs.partitions import list_remaining_partitions, mark_missing, raise_final_failures
from tasks.runs.publishing import call_assistants
from tasks.runtime.fault_points import reach
from tasks.runtime.shutdown import is_stopping
from tasks.set_backs.history import report_lost_commits
from tasks.upstream.circuit_breaker import CircuitBreaker
from tasks.upstream.rate_limits import make_limiter

log = structlog.get_logger()

ASSISTED_POLL_INTERVAL = 0.5
"""Seconds between two checks of the partitions that assistants hold."""

PREFETCH_CANDIDATES = 16
"""Number of upcoming partitions to consider. The first partition without a lease is prefetched."""


class SliceEnded(Exception):
    """The slice's time is up, or its worker stops. Committed pages stay, and the next slice continues the run."""


class Slice:
    """One slice of a run: the work of one Celery task."""

    def __init__(
        self, engine: Engine, settings: Settings, source: Source, claim: Claim, *, seconds: float | None = None
    ):
        """Create a slice. seconds: its time limit. Default: TASK_SLICE."""
        self._engine, self._settings, self._claim = engine, settings, claim
        self._source = source_for_run(engine, source, claim)
        self._clock = _database_clock(claim.now)
        self._deadline = time.monotonic() + (settings.task_slice if seconds is None else seconds)
        self._assistants_to_call = 0

    def work(self) -> None:
        """Load the run's remaining partitions. If a partition cannot be read, still load the others.

        Raise SliceEnded, and the errors of fetching, loading and leases.
        """
        failures: list[TransientError] = []
        with self._opened() as (preparer, reader):
            untried, waiting = self._partitions_left()
            if self._source.is_shared:
                self._assistants_to_call = min(self._settings.run_workers, len(untried) + len(waiting)) - 1
            assisted: list[str] = []
            for index, partition in enumerate(_each_then_repeated([*untried, *waiting], assisted)):
                try:
                    if index:
                        self.check_time()
                    self._ingest(partition, preparer, reader, _following(untried, index))
                except PartitionDone:
                    continue
                except LeaseHeld as held:
                    if not held.same_run:
                        raise
                    assisted.append(partition)
                except TerminalError as error:
                    self._log_failed(partition, error)
                except (SliceEnded, TransientError) as error:
                    if isinstance(error, TransientError) and error.retry_after is None:
                        log.warning("partition_waiting", partition=partition, code=error.code, reason=error.detail)
                        failures.append(error)
                        continue
                    # This error applies to the slice or the upstream, not to the partition. If the slice still
                    # reached untried partitions, it made progress, and an earlier failure does not count yet.
                    if failures and index >= len(untried):
                        raise _as_failure(failures[0], error) from None
                    raise
        if failures:
            raise failures[0]
        raise_final_failures(self._engine, self._claim)

    def assist(self) -> None:
        """Load partitions that no worker has tried, while the assisted slice works on all partitions."""
        with self._opened() as (preparer, reader):
            untried, _ = self._partitions_left()
            for index, partition in enumerate(untried):
                self.check_time()
                try:
                    self._ingest(partition, preparer, reader, _following(untried, index))
                except (PartitionDone, LeaseHeld):
                    continue
                except TerminalError as error:
                    self._log_failed(partition, error)

    def _ingest(self, partition: str, preparer: PagePreparer, reader: PageReader, upcoming: Sequence[str]) -> None:
        """Fetch, parse, normalize and load the pages of a partition, one after another."""
        with self._lease(partition) as lease, reader.pages(lease, upcoming) as (pages, guard):
            renewed_at = time.monotonic()
            first_records = FirstRecords(self._source.name, self._settings.csv_first_records)
            for prepared in pages:  # fetched, parsed and normalized by PagePreparer.prepare
                reach("after_fetch")
                started = time.monotonic()
                guard.check(prepared.page, prepared.normalized)
                if self._claim.kind == "live":
                    first_records.check(prepared.page, prepared.normalized)
                # A prefetched page may have waited for the commit that renewed the lease.
                deadline = max(prepared.deadline, preparer.retry_deadline(renewed_at))
                seq, counters = self._commit(prepared._replace(deadline=deadline), preparer, lease)
                renewed_at = time.monotonic()
                reader.record_loaded(counters)
                reach("after_commit")
                duration = round(time.monotonic() - started, 3)
                log.info("page_committed", partition=partition, page=seq, duration_seconds=duration, **vars(counters))
                if prepared.page.notice:
                    log.warning("response_unusual", partition=partition, page=seq, reason=prepared.page.notice)
                if prepared.page.waiting:
                    log.warning("record_waiting", partition=partition, reason=prepared.page.waiting)
                self._call_assistants()
                self.check_time(guard)
            if self._source.upstreams:
                delete_unrequested(self._engine, lease)

    def _commit(self, prepared: PreparedPage, preparer: PagePreparer, lease: Lease) -> tuple[int, Counters]:
        """Resolve the listings of a page and commit it. If the database lost the listings, resolve them again."""
        try:
            return self._commit_once(prepared, preparer, lease)
        except CommitLost as lost:
            report_lost_commits(self._engine, str(lost), self._claim.history)
            raise
        except ListingsLost as lost:
            log.warning("listings_lost", partition=lease.partition, reason=str(lost))
            report_lost_commits(self._engine, str(lost), self._claim.history)
        preparer.forget_listings()
        return self._commit_once(prepared._replace(rows=None), preparer, lease)

    def _commit_once(self, prepared: PreparedPage, preparer: PagePreparer, lease: Lease) -> tuple[int, Counters]:
        page, normalized, rows, deadline = prepared
        rows = preparer.rows(prepared) if rows is None else rows
        preparer.check_time(deadline)
        return commit_page(self._engine, lease, page, normalized, rows, deadline)

    def _partitions_left(self) -> tuple[list[str], list[str]]:
        partitions = list(self._source.partitions())
        if not partitions:
            log.warning("partitions_missing", hint="the source has no partition; do its files match its patterns?")
        reserved = [name for name in partitions if name.startswith(RESERVED_PREFIXES)]
        if self._claim.kind == "live" and reserved:
            raise TerminalError(
                f"{self._source.name}: the partition name {reserved[0]!r} is reserved; "
                f"names must not begin with {' or '.join(map(repr, RESERVED_PREFIXES))}"
            )
        if self._claim.kind == "live" and self._source.partitions_stay and not self._claim.assists:
            mark_missing(self._engine, self._claim, partitions)
        return list_remaining_partitions(self._engine, self._claim, partitions)

    def check_time(self, guard: LoopGuard | None = None) -> None:
        """Raise SliceEnded if the worker stops or the slice's time is up."""
        if is_stopping():
            raise SliceEnded
        if time.monotonic() > self._deadline:
            if guard:
                guard.check_end()
            raise SliceEnded

    def _call_assistants(self) -> None:
        """Call assistants once, after the first committed page, because a run with only unchanged files needs none."""
        if self._assistants_to_call > 0:
            call_assistants(self._claim, self._assistants_to_call)
            self._assistants_to_call = 0

    @staticmethod
    def _log_failed(partition: str, error: TerminalError) -> None:
        log.warning("partition_failed", partition=partition, code=error.code, reason=error.detail)

    @contextmanager
    def _lease(self, partition: str) -> Iterator[Lease]:
        # An assistant that commits nothing for longer is considered dead, and loses its current page.
        takeover_after = None if self._claim.assists else self._settings.transaction_timeout
        lease = take_lease(self._engine, self._claim, partition, self._settings.lease, takeover_after=takeover_after)
        try:
            yield lease
        except SoftTimeLimitExceeded:
            raise  # Keep the lease, so that the error of a poisoned run can name the page that killed its workers.
        except TerminalError as error:
            release_lease(self._engine, lease, done=True, failed=error, restart=isinstance(error, FileRefused))
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
    def _opened(self) -> Iterator[tuple[PagePreparer, PageReader]]:
        """Open the connection to the upstream, and yield the preparer and the reader of its pages."""
        with closing(HttpClient(self._access())) as http:
            preparer = PagePreparer(self._engine, self._settings, self._source, self._claim, self._clock, http)
            with closing(PageReader(self._engine, self._source, self._claim, preparer)) as reader:
                yield preparer, reader

    def _access(self) -> Access:
        try:
            address = upstream_address(self._source)
        except SettingsError as error:
            raise TerminalError(str(error), code="misconfigured") from None
        breaker = CircuitBreaker(self._engine, self._source.name, self._settings)
        return Access(
            source=self._source.name,
            url=address.url,
            auth=Authenticator(address.credentials, self._clock),
            deadline=self._settings.request_deadline,
            max_body_bytes=self._settings.max_body_bytes,
            max_body_values=self._settings.max_body_values,
            spend=make_limiter(self._engine, self._source, breaker),
            record_result=breaker.record_result,
            clock=self._clock,
            contact=self._settings.user_agent_contact,
        )


def _following(partitions: Sequence[str], index: int) -> Sequence[str]:
    return partitions[index + 1 : index + 1 + PREFETCH_CANDIDATES]


def _each_then_repeated(partitions: list[str], repeated: list[str]) -> Iterator[str]:
    """Yield each partition once. Then, at intervals, yield the partitions that were added to `repeated`."""
    yield from partitions
    while repeated:
        time.sleep(ASSISTED_POLL_INTERVAL)
        yield from [repeated.pop(0) for _ in range(len(repeated))]


def _as_failure(failure: TransientError, end: SliceEnded | TransientError) -> TransientError:
    """Return a partition's failure as the slice's error. Otherwise it would never count toward MAX_WAITS."""
    retry_after = end.retry_after if isinstance(end, TransientError) else None
    return TransientError(failure.detail, code=failure.code, retry_after=retry_after)


def _database_clock(now: datetime) -> Callable[[], datetime]:
    """Return a clock that starts at the database's time and continues with this host's monotonic clock.

    The wall clocks of hosts differ and jump.
    """
    started = time.monotonic()
    return lambda: now + timedelta(seconds=time.monotonic() - started)
