"""Send duplicate and invalid messages, lose messages, cancel runs, and run a page that kills its worker."""

from __future__ import annotations

import uuid
from itertools import pairwise

from tests.chaos.faults_workers import start_runs
from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import until

POISONED_SOURCE = """
import json, os, signal
from datetime import timedelta
from sources.contract import Page, Source

def fetch(window, http):
    first = window.cursor["page"] if window.cursor and window.cursor["run"] == window.run else 1
    for number in range(first, 4):
        item = {"source_asset_id": "gold", "symbol": "XAU", "name": "Gold", "quote_currency": "USD",
                "observed_at": f"2026-01-0{number}T00:00:00Z", "price": "4000"}
        cursor = {"run": window.run, "page": number + 1}
        yield Page(json.dumps([item]).encode(), "application/json", {"page": number}, window.now, cursor)

def parse(page):
    if page.request["page"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return json.loads(page.body)

source = Source(name="poisoned", every=timedelta(days=300), fetch=fetch, parse=parse, normalize=dict)
"""

SLOT_SECONDS = 6
"""Seconds between two slots of the healthy sources. Beat checks for due slots every five seconds."""


@fault("duplicate messages before, during and after their run")
def duplicate_messages(stage: Stage) -> str:
    stage.environ["CSV_BLOCK_BYTES"] = "2048"
    [run] = stage.request("csv_history")
    _send_copies(stage, run)
    stage.start("control")
    worker = stage.start("worker")
    until(lambda: stage.scalar("SELECT count(*) FROM pages") >= 5, what="five pages")
    stage.mark_fault()
    _send_copies(stage, run)
    stage.settle()
    _send_copies(stage, run)
    until(lambda: worker.log.read_text().count("run_skipped") >= 9, what="the duplicates were skipped")
    assert stage.run(run).claims == 1, "a duplicate worked on the run"
    return "at least ten messages, one start"


def _send_copies(stage: Stage, run: uuid.UUID) -> None:
    for _ in range(3):
        stage.send("kasparro.ingest", str(run))


@fault("a deployment with outdated and invalid messages in the queue")
def invalid_messages(stage: Stage) -> str:
    """Send messages as another version might: with unknown arguments, runs and tasks, or without a run."""
    [ended] = stage.request("coinpaprika")
    stage.cancel(ended)
    runs = stage.request("csv_history", "coingecko")
    stage.broker.flushall()
    stage.send("kasparro.ingest", str(runs[0]), "live", 3, mode="fast", page={"from": 7})
    stage.send("kasparro.ingest", str(runs[1]), shard=None)
    for argument in (str(uuid.uuid4()), str(ended), "no run at all", 7, None, ["a", "list"], {"run": str(ended)}):
        stage.send("kasparro.ingest", argument)
    stage.send("kasparro.ingest")
    stage.send("kasparro.ingest", source="coingecko")
    stage.send("kasparro.canary", "what", since="then")
    stage.send("kasparro.reconcile", "what", every=15)
    stage.send("kasparro.a_task_of_old", 1)
    stage.mark_fault()
    worker = stage.start("worker")
    stage.settle()  # No reconciler is running yet, so only these messages start the runs.
    control = stage.start("control")
    stage.until_ready(worker, control)
    claims = [stage.run(run).claims for run in runs]
    assert claims == [1, 1], f"expected one start for each run: {claims}"
    assert stage.run(ended).status == "cancelled"
    [later] = stage.request("coinpaprika")
    until(lambda: stage.run(later).finished_at, what="a run requested afterwards finished")
    return "both runs finished in one start each; the workers survived and ran the next request"


@fault("cancellation of a queued, a waiting, a running and an abandoned run")
def cancels(stage: Stage) -> str:
    [queued] = stage.request("coingecko")
    stage.cancel(queued)
    assert stage.run(queued).status == "cancelled", "at once: no worker holds it"
    stage.api("POST", "/sources/coinpaprika/pause", reason="a test")
    worker, _ = start_runs(stage, "csv_history")
    [waiting] = stage.request("coinpaprika")
    until(lambda: stage.run(waiting).status == "waiting")
    stage.cancel(waiting)
    assert stage.run(waiting).status == "cancelled", "at once: no worker holds it"
    [running] = stage.request("csv_history")  # This returns the running run.
    stage.mark_fault()
    stage.cancel(running)
    pages_before = stage.scalar("SELECT count(*) FROM pages")
    until(lambda: stage.run(running).status == "cancelled", within=5)
    late_pages = stage.scalar("SELECT count(*) FROM pages") - pages_before
    assert late_pages <= 1, f"{late_pages} pages after the cancellation"
    [abandoned] = stage.request("csv_history")
    until(lambda: stage.rows("SELECT FROM pages WHERE run = :run", run=abandoned))
    worker.kill()
    stage.cancel(abandoned)
    stage.start("worker")
    until(lambda: stage.run(abandoned).status == "cancelled", what="the reconciler closed it")
    stage.api("POST", "/sources/coinpaprika/resume")
    stage.request("csv_history", "coingecko", "coinpaprika")
    stage.settle()
    return f"all four cancelled, {late_pages} pages after that; requested again, the data is complete"


@fault("messages lost from a queue that no worker read for an hour")
def old_queue_lost(stage: Stage) -> str:
    """Lose a message after its publication interval has grown long. The run must not wait for that interval."""
    stage.request("coingecko", "csv_history")
    stage.rows("UPDATE runs SET publish_count = 9, published_at = clock_timestamp()")
    stage.broker.flushall()
    stage.start("control")
    worker = stage.start("worker")
    stage.until_ready(worker)
    stage.mark_fault()
    stage.settle()
    return "published again, since the queue is empty"


@fault("a source whose page kills every worker")
def poisoned_source(stage: Stage) -> str:
    """Expect the poisoned run to fail and name its page. Its source is paused, and others keep their schedule."""
    stage.add_sources({"poisoned": POISONED_SOURCE})
    stage.allow_incomplete("poisoned")
    healthy = ("coinpaprika", "coingecko", "csv_history")
    stage.environ |= {f"{source.upper()}_EVERY": str(SLOT_SECONDS) for source in healthy}
    for role in ("worker", "control", "beat"):
        stage.start(role)
    [run] = stage.request("poisoned")
    stage.mark_fault()
    until(lambda: stage.run(run).status == "failed", within=60, what="the poisoned run failed")
    seconds = stage.seconds_since_fault()
    failed = stage.run(run)
    assert failed.error_code == "poisoned", failed.error_code
    assert "after cursor" in failed.error_detail, failed.error_detail
    assert "'page': 2" in failed.error_detail, failed.error_detail
    assert stage.scalar("SELECT paused_until > clock_timestamp() FROM sources WHERE name = 'poisoned'")
    stage.stop_beat()
    stage.settle()
    slots = sum(_count_slots(stage, source) for source in healthy)
    return f"failed after {seconds:.0f} s and {failed.claims} starts, naming its page; the others ran {slots} slots"


def _count_slots(stage: Stage, source: str) -> int:
    """Return the number of slots since the source's first run finished. Assert that none was skipped."""
    slots = stage.rows(
        """
        SELECT scheduled_for FROM runs
         WHERE source = :source AND scheduled_for > (SELECT min(finished_at) FROM runs WHERE source = :source)
         ORDER BY 1
        """,
        source=source,
    )
    gaps = {(after.scheduled_for - before.scheduled_for).total_seconds() for before, after in pairwise(slots)}
    assert gaps == {SLOT_SECONDS}, f"{source} skipped a slot, or had fewer than two: {gaps}"
    return len(slots)
