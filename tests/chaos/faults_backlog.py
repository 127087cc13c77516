"""Lose every message for a backlog of queued runs."""

from __future__ import annotations

import shutil
import time
from collections import Counter

from tests.chaos.faults_redis import CODE, running
from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import until

RUNNING = ("running_1", "running_2")
QUEUED = tuple(f"queued_{number:02}" for number in range(50))


@fault("Redis stopped for 30 s and emptied, with 50 runs queued and 2 running")
def all_messages_lost(stage: Stage) -> str:
    """Lose all messages of queued runs. Two running runs continue without Redis for longer than a slice."""
    sources = (*RUNNING, *QUEUED)
    stage.add_sources(
        {
            name: CODE.format(name=name, first=number, pages=60 if name in RUNNING else 2)
            for number, name in enumerate(sources)
        }
    )
    stage.record_expected(*sources)
    stage.environ["PACE"] = "0.5"
    stage.until_ready(stage.start("worker"), stage.start("control"))
    stage.request(*RUNNING)
    until(lambda: len(running(stage)) == len(RUNNING), what="two runs are running")
    stage.request(*QUEUED)
    statuses = Counter(run.status for run in stage.unfinished())
    assert statuses == {"running": 2, "queued": 50}, statuses

    with stage.outage():
        stage.valkey.stop()
        shutil.rmtree(stage.valkey.data)
        time.sleep(30)
        stage.valkey.start()
    stage.mark_fault()
    stage.settle(within=120)
    statuses = Counter(row.status for row in stage.rows("SELECT status FROM runs"))
    assert statuses == {"succeeded": len(sources)}, statuses
    return f"all {len(sources)} runs succeeded, each once"
