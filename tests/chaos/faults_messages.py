"""What comes through the queue that should not, and what does not come that should; cancel; a page that kills."""

from __future__ import annotations

import uuid
from itertools import pairwise

from tests.chaos.faults_workers import under_way
from tests.chaos.stage import Stage, fault
from tests.processes import until

POISONED = """
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

EVERY = 6
"""Seconds between two slots of the healthy sources: beat looks every five."""


@fault("copies of a message, before and during its run")
def copies_of_a_message(stage: Stage) -> str:
    stage.environ["CSV_BLOCK_BYTES"] = "2048"
    [run] = stage.request("csv_history")
    _send_copies(stage, run)
    stage.start("control")
    worker = stage.start("worker")
    until(lambda: stage.one("SELECT count(*) FROM pages") >= 5, what="five pages")
    stage.hurt()
    _send_copies(stage, run)
    stage.settle()
    _send_copies(stage, run)
    until(lambda: worker.log.read_text().count("run_skipped") >= 9, what="the copies ended")
    assert stage.run(run).claims == 1, "a copy worked on the run"
    return "ten messages or more, one start"


def _send_copies(stage: Stage, run: uuid.UUID) -> None:
    for _ in range(3):
        stage.send("kasparro.ingest", str(run))


@fault("a deployment with old and strange messages in the queue")
def strange_messages(stage: Stage) -> str:
    """Of another version: with arguments we do not know, of runs and tasks we do not know, of none at all."""
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
    stage.hurt()
    worker = stage.start("worker")
    stage.settle()  # with no reconciler: by the strange messages alone
    control = stage.start("control")
    stage.until_ready(worker, control)
    claims = [stage.run(run).claims for run in runs]
    assert claims == [1, 1], f"each run was to be done in one start: {claims}"
    assert stage.run(ended).status == "cancelled"
    again = stage.request("coinpaprika")
    until(lambda: stage.run(again[0]).finished_at, what="a run asked for afterwards ended")
    return "both runs done in one start each; the workers live, and do what they are asked next"


@fault("cancel of a queued, a waiting, a running and an abandoned run")
def cancels(stage: Stage) -> str:
    [queued] = stage.request("coingecko")
    stage.cancel(queued)
    assert stage.run(queued).status == "cancelled", "at once: nobody has it"
    stage.api("POST", "/sources/coinpaprika/pause", reason="a test")
    worker, _ = under_way(stage, "csv_history")
    [waiting] = stage.request("coinpaprika")
    until(lambda: stage.run(waiting).status == "waiting")
    stage.cancel(waiting)
    assert stage.run(waiting).status == "cancelled", "at once: nobody has it"
    [running] = stage.request("csv_history")  # the one that is under way
    stage.hurt()
    stage.cancel(running)
    there = stage.one("SELECT count(*) FROM pages")
    until(lambda: stage.run(running).status == "cancelled", within=5)
    late = stage.one("SELECT count(*) FROM pages") - there
    assert late <= 1, f"{late} pages after the cancel"
    [abandoned] = stage.request("csv_history")
    until(lambda: stage.rows("SELECT FROM pages WHERE run = :run", run=abandoned))
    worker.kill()
    stage.cancel(abandoned)
    stage.start("worker")
    until(lambda: stage.run(abandoned).status == "cancelled", what="the reconciler closed it")
    stage.api("POST", "/sources/coinpaprika/resume")
    stage.request("csv_history", "coingecko", "coinpaprika")
    stage.settle()
    return f"all four cancelled, {late} pages after that; asked for again, the data is whole"


@fault("messages lost after a queue nobody read for an hour")
def an_old_queue_is_lost(stage: Stage) -> str:
    """The gap between publications has grown long by then: what is lost must not wait for the end of it."""
    stage.request("coingecko", "csv_history")
    stage.rows("UPDATE runs SET publish_count = 9, published_at = clock_timestamp()")
    stage.broker.flushall()
    stage.start("control")
    worker = stage.start("worker")
    stage.until_ready(worker)
    stage.hurt()
    stage.settle()
    return "published anew, since the queue is empty"


@fault("a source whose page kills every worker")
def a_poisoned_source(stage: Stage) -> str:
    """The others keep their schedule; it ends, says at which page, and is paused."""
    stage.add_sources({"poisoned": POISONED})
    stage.incomplete("poisoned")
    healthy = ("coinpaprika", "coingecko", "csv_history")
    stage.environ |= {f"{source.upper()}_EVERY": str(EVERY) for source in healthy}
    for role in ("worker", "control", "beat"):
        stage.start(role)
    [run] = stage.request("poisoned")
    stage.hurt()
    until(lambda: stage.run(run).status == "failed", within=60, what="the poisoned run failed")
    took = stage.age_of_hurt()
    ended = stage.run(run)
    assert ended.error_code == "poisoned", ended.error_code
    assert "after cursor" in ended.error_detail, ended.error_detail
    assert "'page': 2" in ended.error_detail, ended.error_detail
    assert stage.one("SELECT paused_until > clock_timestamp() FROM sources WHERE name = 'poisoned'")
    stage.end_schedule()
    stage.settle()
    kept = [_kept_slots(stage, source) for source in healthy]
    return f"failed after {took:.0f} s and {ended.claims} starts, its page named; the others kept {sum(kept)} slots"


def _kept_slots(stage: Stage, source: str) -> int:
    """How many slots there were since the source's first run ended, none of them left out."""
    slots = stage.rows(
        """
        SELECT scheduled_for FROM runs
         WHERE source = :source AND scheduled_for > (SELECT min(finished_at) FROM runs WHERE source = :source)
         ORDER BY 1
        """,
        source=source,
    )
    gaps = {(after.scheduled_for - before.scheduled_for).total_seconds() for before, after in pairwise(slots)}
    assert gaps == {EVERY}, f"{source} left out a slot, or had too few: {gaps}"
    return len(slots)
