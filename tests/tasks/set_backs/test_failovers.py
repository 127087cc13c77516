"""Test that a failover that loses commits leaves no quote lost, doubled or under a wrong listing, and is reported once.

WAL_CUTS sets the number of random positions in the WAL. The fault suite uses more of them.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.web.etags import data_version
from settings import Settings
from sources.contract import Http, Page, Source, Window
from store.engine import make_engine
from tasks.runs.slots import request_slot
from tasks.set_backs.memory import in_process
from tests.servers import memory_folder
from tests.standby import Failover, MigratedCluster
from tests.tasks.assets import merge
from tests.tasks.conftest import Bench
from tests.tasks.set_backs.failovers import COINS, Service, page
from tests.upstreams import OBSERVED, canned

CUTS = int(os.environ.get("WAL_CUTS", "3"))

FAILED_OVER = "the database moved from timeline 1 to 2, as in a failover"


@pytest.fixture(scope="module")
def cluster() -> Iterator[MigratedCluster]:
    folder = Path(tempfile.mkdtemp(prefix="kasparro-cluster-", dir=memory_folder()))
    with MigratedCluster(folder) as cluster:
        yield cluster
    shutil.rmtree(folder)


@contextmanager
def started(cluster: MigratedCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    folder = Path(tempfile.mkdtemp(prefix="kasparro-failover-", dir=memory_folder()))
    in_process.clear()
    with Failover(folder, cluster) as failover:
        # A failover takes longer than the short limits of the tests.
        patient = replace(settings, transaction_timeout=30.0, lease=60.0)
        engine = make_engine(failover.url, "test", transaction_timeout=patient.transaction_timeout)
        service = Service(failover, Bench(engine, patient, monkeypatch))
        yield service
        engine.dispose()
    in_process.clear()
    shutil.rmtree(folder)


@pytest.fixture
def service(
    cluster: MigratedCluster, settings: Settings, monkeypatch: pytest.MonkeyPatch, broker: Any
) -> Iterator[Service]:
    with started(cluster, settings, monkeypatch) as service:
        yield service


def confirming(source: Source, number: int, confirm: Any) -> Source:
    """Return the source, with a function that is called in the transaction of its page with this number."""

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        for fetched in source.fetch(window, http):
            yield replace(fetched, confirm=confirm) if fetched.request["page"] == number else fetched

    return replace(source, fetch=fetch)


def assert_reported_once(logs: Any, service: Service, sources: list[str]) -> None:
    assert [log["reason"] for log in logs if log["event"] == "database_set_back"] == [FAILED_OVER]
    assert service.bench.one("SELECT count(*) FROM timelines WHERE reason IS NOT NULL") == 1
    assert service.health() == sources


@pytest.mark.parametrize("full_refresh", [False, True])
def test_lost_listings_are_added_again_before_their_page_is_loaded(service: Service, full_refresh: bool) -> None:
    pages, others = [page(0), page(500), page(1000)], [page(2000)]
    position: list[str] = []

    def before(number: int) -> None:
        if number == 1:
            position.append(service.failover.position())

    def fail_over_once() -> None:
        if position:
            service.failover.fail_over(position.pop())
            # The listings of another source get the ids of the lost listings.
            service.bench.ingest(canned(*others, name="other"))

    source = confirming(canned(*pages, before=before), 1, fail_over_once)
    run = service.bench.request(source, full_refresh=full_refresh)
    service.sweep()
    with capture_logs() as logs:
        service.work(run)
        service.sweep()
    assert [log["reason"].rpartition(": ")[2] for log in logs if log["event"] == "listings_lost"] == [f"{COINS}"]
    assert service.bench.run(run)["status"] == "succeeded"
    service.assert_equal({"canned": pages, "other": others})
    assert_reported_once(logs, service, ["canned", "other"])


def test_a_lost_page_is_fetched_again(service: Service) -> None:
    pages = [page(0), page(500), page(1000)]
    position: list[str] = []
    failed_over: list[str] = []

    def before(number: int) -> None:
        if number == 2 and not failed_over:
            failed_over.extend(position)
            service.failover.fail_over(*failed_over)

    def note_position() -> None:
        if not failed_over:
            position.append(service.failover.position())

    source = confirming(canned(*pages, before=before), 1, note_position)
    run = service.bench.request(source)
    service.sweep()
    with capture_logs() as logs:
        service.work(run)
        service.sweep()
        assert service.finish(run) == "succeeded"
    service.assert_equal({"canned": pages})
    assert_reported_once(logs, service, ["canned"])
    # The run started before the set-back was noticed, so the next one ends it.
    assert service.bench.ingest(canned(*pages))["status"] == "succeeded"
    service.sweep()
    assert service.health() == []


def test_a_lost_decision_changes_the_etag_even_if_another_one_follows(service: Service) -> None:
    bench = service.bench
    bench.ingest(canned(page(0)))
    service.sweep()
    position = service.failover.position()
    merge(bench.engine, "coin-1", into="coin-2")
    with bench.engine.connect() as connection:
        lost = data_version(connection)
    service.failover.fail_over(position)
    with bench.engine.connect() as connection:
        assert data_version(connection) != lost
    merge(bench.engine, "coin-3", into="coin-4")
    with bench.engine.connect() as connection:
        assert data_version(connection) != lost
    with capture_logs() as logs:
        service.sweep()
        service.sweep()
    assert_reported_once(logs, service, ["canned"])


def test_a_lost_slot_gets_its_run_again(service: Service) -> None:
    bench, pages = service.bench, [page(0)]
    bench.register(canned(*pages))
    service.sweep()
    position = service.failover.position()
    lost = request_slot(bench.engine, "canned", OBSERVED, after=None).run
    service.failover.fail_over(position)
    service.sweep()
    again = request_slot(bench.engine, "canned", OBSERVED, after=None).run
    assert again
    assert again != lost
    assert service.finish(again) == "succeeded"
    service.assert_equal({"canned": pages})


def test_a_lost_run_is_named_and_its_worker_stops(service: Service) -> None:
    bench, pages = service.bench, [page(0)]
    bench.ingest(canned(*pages))
    service.sweep()
    position = service.failover.position()
    run = bench.request(canned(page(500), before=lambda _: service.failover.fail_over(position)))
    with capture_logs() as logs:
        service.work(run)
        service.sweep()
    assert service.finish(run) is None
    service.assert_equal({"canned": pages})
    assert_reported_once(logs, service, ["canned"])


def cut_somewhere(service: Service, seed: int) -> None:
    """Fail over at a random moment of two runs to a random earlier position, and let the due runs follow."""
    chance = random.Random(seed)
    upstreams = {"canned": [page(0), page(500), page(30)], "other": [page(2000), page(2500)]}
    moment, part = chance.randrange(8), chance.random()
    moments = iter(range(100))
    start: list[str] = []

    def reach() -> None:
        if next(moments) == moment:
            service.failover.fail_over(service.failover.position_between(start[0], part))

    sources = {
        name: confirming(canned(*pages, name=name, before=lambda _: reach()), chance.randrange(len(pages)), reach)
        for name, pages in upstreams.items()
    }
    service.sweep()
    for source in sources.values():
        service.bench.register(source)
    start.append(service.failover.position())
    runs: list[uuid.UUID] = []
    with capture_logs() as logs:
        for source in sources.values():
            runs.append(service.bench.request(source))
            service.work(runs[-1])
        while next(moments) <= moment:
            pass
        service.sweep()
        for run in runs:
            service.finish(run)
        for name, pages in upstreams.items():
            due = service.bench.request(canned(*pages, name=name))
            assert service.finish(due) == "succeeded"
        service.sweep()
    reports = [log["reason"] for log in logs if log["event"] == "database_set_back"]
    assert len(reports) == (service.bench.one("SELECT count(*) FROM timelines") > 1), reports
    service.assert_equal(upstreams)
    assert service.health() == []


@pytest.mark.parametrize("seed", range(CUTS))
def test_no_random_cut_of_the_wal_makes_data_wrong(service: Service, seed: int) -> None:
    cut_somewhere(service, seed)
