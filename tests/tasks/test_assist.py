"""Test that several workers can share a run, and load the same data as a single worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from settings import Settings
from store.engine import make_engine
from tasks.assist import assist
from tasks.ingest import work_on
from tasks.runs.claims import Claim, claim_run, requeue_run
from tasks.runs.leases import take_lease
from tasks.runs.requests import RunRequest, request_runs
from tests.processes import Process, until
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench

# Longer than in other tests, because a worker is blocked in the middle of a page.
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


def test_a_slice_ingests_the_partition_of_a_dead_assistant(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, assistant = claims
    take_lease(bench.engine, assistant, "b", bench.settings.lease)
    work_on(bench.engine, bench.settings, claim)
    assert bench.run(claim.run)["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM checkpoints WHERE done_by = :run", run=claim.run) == 3


@pytest.fixture
def expected_content(
    make_database: Callable[[], str], content: Callable[[Engine], str], file: Path, settings: Settings
) -> str:
    """Return a hash of the data after a single worker has read the file."""
    engine = make_engine(make_database(), "test")
    ingest_in_process(engine, settings, file)
    loaded = content(engine)
    engine.dispose()
    assert loaded.startswith(f"{DAYS} quotes")
    return loaded


def ingest_in_process(engine: Engine, settings: Settings, file: Path) -> None:
    with environment(CSV_DIR=str(file.parent.parent)):
        claim = claim_run(engine, request(engine))
        assert claim
        work_on(engine, settings, claim)


def request(engine: Engine) -> uuid.UUID:
    [requested] = request_runs(engine, [RunRequest("csv_history")], requested_by="test")
    return requested.run


@pytest.fixture
def shared(
    engine: Engine, settings: Settings, file: Path, expected_content: str, broker: Redis
) -> Iterator[tuple[uuid.UUID, Callable[[], None]]]:
    """Yield a run of the file that is blocked at its second page, and a function that unblocks the run."""
    content = file.read_text()
    file.write_text(HEADER + content.splitlines(keepends=True)[1])
    ingest_in_process(engine, settings, file)
    file.write_text(content)
    broker.flushall()
    blocker = make_engine(settings.database_url, "blocker")
    with blocker.connect() as connection:
        connection.execute(
            text("""
                INSERT INTO quotes (listing_id, observed_at, price, fetched_at, run)
                SELECT id, CAST(:day AS date) AT TIME ZONE 'UTC', 1, now(), gen_random_uuid() FROM listings
            """),
            {"day": IN_THE_SECOND_PAGE},
        )
        yield request(engine), connection.rollback
    blocker.dispose()


def count_done_partitions(engine: Engine, run: uuid.UUID) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM checkpoints WHERE done_by = :run"), {"run": run}) or 0)


def final_status(engine: Engine, run: uuid.UUID, within: float = 20) -> str:
    """Wait until the run has ended. Return its status."""

    def ended() -> str | None:
        with engine.connect() as connection:
            status = str(connection.scalar(text("SELECT status FROM runs WHERE id = :run"), {"run": run}))
        return None if status in ("queued", "running", "waiting") else status

    return until(ended, within=within, what=f"run {run} ended") or ""


def count_ranges(file: Path, environ: dict[str, str]) -> int:
    return -(-file.stat().st_size // int(environ["CSV_RANGE_BYTES"]))


def test_assistants_read_the_other_ranges_of_a_file(
    engine: Engine,
    start: Callable[..., Process],
    file: Path,
    environ: dict[str, str],
    expected_content: str,
    content: Callable[[Engine], str],
    shared: tuple[uuid.UUID, Callable[[], None]],
) -> None:
    run, unblock = shared
    start("worker", **environ)
    others = count_ranges(file, environ) - 1
    assert others > 3
    until(lambda: count_done_partitions(engine, run) == others, within=20, what="all ranges but the first are loaded")
    unblock()
    assert final_status(engine, run) == "succeeded"
    assert content(engine) == expected_content


def test_a_run_has_no_assistants_if_run_workers_is_1(
    engine: Engine,
    start: Callable[..., Process],
    environ: dict[str, str],
    expected_content: str,
    content: Callable[[Engine], str],
    broker: Redis,
    shared: tuple[uuid.UUID, Callable[[], None]],
) -> None:
    run, unblock = shared
    unblock()
    worker = start("worker", **environ, RUN_WORKERS="1")
    assert final_status(engine, run) == "succeeded"
    assert "slice_assisted" not in worker.log.read_text()
    assert content(engine) == expected_content


@pytest.mark.usefixtures("process_settings")
def test_an_assistant_does_nothing_after_its_slice_has_ended(bench: Bench, claims: tuple[Claim, Claim]) -> None:
    claim, _ = claims
    requeue_run(bench.engine, claim)
    with capture_logs() as events:
        assist(str(claim.run), claim.number)
    assert [event["event"] for event in events] == ["run_skipped"]


def test_a_message_with_an_invalid_run_id_is_logged_and_discarded() -> None:
    with capture_logs() as events:
        assist("coingecko", 1)
    assert [(event["event"], event["run"]) for event in events] == [("message_invalid", "'coingecko'")]
