"""Several workers on one run: they share its partitions, lose nothing to each other, and none outlives the run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, text

from settings import Settings
from sources.contract import Page
from store.engine import make_engine
from tasks.ingest import work_on
from tasks.pipeline.load import pass_fence
from tasks.runs.claims import Claim, ClaimLost, claim_run, end, join_run, put_back
from tasks.runs.leases import Lease, LeaseHeld, LeaseLost, PartitionDone, release_lease, take_lease
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import RunRequest, request_runs
from tests.processes import Process, until
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench
from tests.upstreams import canned

# Longer than the other tests' times: here a worker is held up in the middle of a page.
TIMES = {
    "TASK_SLICE": "60",
    "TASK_SOFT_LIMIT": "100",
    "TASK_HARD_LIMIT": "110",
    "VISIBILITY_TIMEOUT": "300",
    "LEASE": "30",
    "TRANSACTION_TIMEOUT": "8",
}
DAYS = 400
FIRST = date(2015, 1, 1)
IN_THE_SECOND_PAGE = FIRST + timedelta(days=20)
HEADER = "Name,Symbol,Date,High,Low,Open,Close,Volume,Marketcap\n"


@pytest.fixture
def both(bench: Bench) -> tuple[Claim, Claim]:
    """A slice of a run, and an assistant's part in it."""
    claim = claim_run(bench.engine, bench.request(canned(partitions=("a", "b", "c"))))
    assert claim
    joined = join_run(bench.engine, claim.run, claim.number)
    assert joined
    return claim, joined


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "csv" / "coin_history" / "coin_Long.csv"
    path.parent.mkdir(parents=True)
    days = [FIRST + timedelta(days=number) for number in range(DAYS)]
    path.write_text(HEADER + "".join(f"Long,LNG,{day},3,1,2,{1 + day.day}.25,70,900\n" for day in days))
    return path


@pytest.fixture
def environ(file: Path) -> dict[str, str]:
    sizes = {"CSV_RANGE_BYTES": "3000", "CSV_BLOCK_BYTES": "700", "CSV_RECORD_BYTES": "300"}
    return {**TIMES, **sizes, "CSV_DIR": str(file.parent.parent)}


def page(cursor: int = 1) -> Page:
    return Page(b"", "text/plain", {}, datetime.now(UTC), {"next": cursor})


def test_a_slice_and_its_assistant_take_nothing_from_each_other(bench: Bench, both: tuple[Claim, Claim]) -> None:
    for one, other, partition in ((*both, "a"), (*reversed(both), "b")):
        take_lease(bench.engine, one, partition, 60)
        with pytest.raises(LeaseHeld) as held:
            take_lease(bench.engine, other, partition, 60)
        assert held.value.beside_us
    with pytest.raises(LeaseHeld):
        take_lease(bench.engine, both[0], "b", 60, silent=10)


def test_what_one_has_been_through_the_other_need_not(bench: Bench, both: tuple[Claim, Claim]) -> None:
    slice_, assistant = both
    release_lease(bench.engine, take_lease(bench.engine, assistant, "a", 60), done=True)
    with pytest.raises(PartitionDone):
        take_lease(bench.engine, slice_, "a", 60)


def test_the_lease_of_an_assistant_that_fell_silent_is_taken_over(bench: Bench, both: tuple[Claim, Claim]) -> None:
    slice_, assistant = both
    lost = take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE checkpoints SET lease_expires = lease_expires - interval '11s'")
    take_lease(bench.engine, slice_, "a", 60, silent=10)
    with bench.engine.begin() as connection, pytest.raises(LeaseLost):
        pass_fence(connection, lost, page())


def test_the_next_slice_takes_over_what_is_left_of_the_last(bench: Bench, both: tuple[Claim, Claim]) -> None:
    slice_, assistant = both
    take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE runs SET status = 'queued'")  # as the reconciler does it, which leaves the lease
    following = claim_run(bench.engine, slice_.run)
    assert following
    assert take_lease(bench.engine, following, "a", 60).token == 2


def test_a_slice_that_ends_ends_its_assistants(bench: Bench, both: tuple[Claim, Claim]) -> None:
    slice_, assistant = both
    lease = take_lease(bench.engine, assistant, "a", 60)
    put_back(bench.engine, slice_)
    with bench.engine.begin() as connection, pytest.raises(LeaseLost):
        pass_fence(connection, lease, page())
    with pytest.raises(ClaimLost):
        take_lease(bench.engine, assistant, "b", 60)
    assert join_run(bench.engine, slice_.run, slice_.number) is None


def test_what_an_assistant_left_when_it_died_is_brought_in_by_the_slice(
    bench: Bench, both: tuple[Claim, Claim]
) -> None:
    slice_, assistant = both
    take_lease(bench.engine, assistant, "b", bench.settings.lease)
    work_on(bench.engine, bench.settings, slice_)
    assert bench.run(slice_.run)["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM checkpoints WHERE done_by = :run", run=slice_.run) == 3


@contextmanager
def committing(bench: Bench, lease: Lease) -> Iterator[None]:
    """A page's transaction that has passed its fence, and is committed at the end."""
    with bench.engine.begin() as connection:
        pass_fence(connection, lease, page())
        yield


def test_a_run_ends_after_the_page_that_an_assistant_is_committing(bench: Bench, both: tuple[Claim, Claim]) -> None:
    slice_, assistant = both
    lease = take_lease(bench.engine, assistant, "a", 60)

    def ended() -> int:
        with bench.engine.begin() as connection:
            end(connection, slice_, "cancelled")
            version: int = connection.execute(text("SELECT version FROM checkpoints")).scalar_one()
            return version

    with ThreadPoolExecutor() as threads:
        with committing(bench, lease):
            end_of_run = threads.submit(ended)
            until(lambda: bench.one("SELECT count(*) FROM pg_locks WHERE NOT granted"), what="the end waits")
            assert bench.run(slice_.run)["status"] == "running"
        assert end_of_run.result() == 1
    assert bench.run(slice_.run)["status"] == "cancelled"


def test_a_run_is_not_put_back_while_an_assistant_is_committing(bench: Bench, both: tuple[Claim, Claim]) -> None:
    slice_, assistant = both
    lease = take_lease(bench.engine, assistant, "a", 60)
    bench.rows("UPDATE checkpoints SET lease_expires = clock_timestamp()")
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    with bench.engine.connect() as connection:
        # Its lease has run out, and it goes on.
        pass_fence(connection, Lease(assistant, "a", lease.token, None, 0, seconds=-1), page())
        reconcile(bench.engine, bench.settings)
        assert bench.run(slice_.run)["status"] == "running"
        connection.commit()
    reconcile(bench.engine, bench.settings)
    assert bench.run(slice_.run)["status"] == "queued"
    with bench.engine.begin() as connection, pytest.raises(ClaimLost):
        pass_fence(connection, lease, page(2))


def test_a_run_can_be_cancelled_while_assistants_are_committing(bench: Bench, both: tuple[Claim, Claim]) -> None:
    lease = take_lease(bench.engine, both[1], "a", 60)
    with committing(bench, lease):
        bench.rows("SET lock_timeout = '1s'; UPDATE runs SET cancel_requested = true")


@pytest.fixture
def at_once(make_database: Callable[[], str], content: Callable[[Engine], str], file: Path, settings: Settings) -> str:
    """What is there after the file was read by one worker, undisturbed."""
    engine = make_engine(make_database(), "test")
    ingest_here(engine, settings, file)
    loaded = content(engine)
    engine.dispose()
    assert loaded.startswith(f"{DAYS} quotes")
    return loaded


def ingest_here(engine: Engine, settings: Settings, file: Path) -> None:
    with environment(CSV_DIR=str(file.parent.parent)):
        claim = claim_run(engine, request(engine))
        assert claim
        work_on(engine, settings, claim)


def request(engine: Engine) -> uuid.UUID:
    [requested] = request_runs(engine, [RunRequest("csv_history")], requested_by="test")
    return requested.run


@pytest.fixture
def shared(
    engine: Engine, settings: Settings, file: Path, at_once: str, broker: Redis
) -> Iterator[tuple[uuid.UUID, Callable[[], None]]]:
    """A run of the file that comes no further than its second page; and what lets it go on."""
    whole = file.read_text()
    file.write_text(HEADER + whole.splitlines(keepends=True)[1])
    ingest_here(engine, settings, file)
    file.write_text(whole)
    broker.flushall()
    holding = make_engine(settings.database_url, "holder")
    with holding.connect() as connection:
        connection.execute(
            text("""
                INSERT INTO quotes (listing_id, observed_at, price, fetched_at, run)
                SELECT id, CAST(:day AS date) AT TIME ZONE 'UTC', 1, now(), gen_random_uuid() FROM listings
            """),
            {"day": IN_THE_SECOND_PAGE},
        )
        yield request(engine), connection.rollback
    holding.dispose()


def done(engine: Engine, run: uuid.UUID) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM checkpoints WHERE done_by = :run"), {"run": run}) or 0)


def ended(engine: Engine, run: uuid.UUID, within: float = 20) -> str:
    def status() -> str | None:
        with engine.connect() as connection:
            now = str(connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run}))
        return None if now in ("queued", "running", "waiting") else now

    return until(status, within=within, what=f"run {run} ended") or ""


def ranges(file: Path, environ: dict[str, str]) -> int:
    return -(-file.stat().st_size // int(environ["CSV_RANGE_BYTES"]))


def test_another_worker_brings_in_a_files_other_ranges(
    engine: Engine,
    start: Callable[..., Process],
    file: Path,
    environ: dict[str, str],
    at_once: str,
    content: Callable[[Engine], str],
    shared: tuple[uuid.UUID, Callable[[], None]],
) -> None:
    run, go_on = shared
    start("worker", **environ)
    others = ranges(file, environ) - 1
    assert others > 3
    until(lambda: done(engine, run) == others, within=20, what="all ranges but the first are in")
    go_on()
    assert ended(engine, run) == "succeeded"
    assert content(engine) == at_once


def test_a_run_that_one_worker_alone_may_have_goes_to_no_other(
    engine: Engine,
    start: Callable[..., Process],
    environ: dict[str, str],
    at_once: str,
    content: Callable[[Engine], str],
    broker: Redis,
    shared: tuple[uuid.UUID, Callable[[], None]],
) -> None:
    run, go_on = shared
    go_on()
    worker = start("worker", **environ, RUN_WORKERS="1")
    assert ended(engine, run) == "succeeded"
    assert "slice_assisted" not in worker.log.read_text()
    assert content(engine) == at_once
