"""A backlog of runs, all of whose messages are lost."""

from __future__ import annotations

import shutil
import time
from collections import Counter

from tests.chaos.faults_redis import CODE, running
from tests.chaos.stage import Stage, fault
from tests.processes import until

UNDER_WAY = ("held_1", "held_2")
QUEUED = tuple(f"queued_{number:02}" for number in range(50))


@fault("Redis stopped for 30 s and emptied, 50 runs queued and 2 under way")
def all_messages_lost(stage: Stage) -> str:
    """The two go on without Redis, for longer than a slice; what is queued stands in Postgres alone."""
    sources = (*UNDER_WAY, *QUEUED)
    stage.add_sources(
        {
            name: CODE.format(name=name, first=number, pages=60 if name in UNDER_WAY else 2)
            for number, name in enumerate(sources)
        }
    )
    stage.expect_undisturbed(*sources)
    stage.environ["PACE"] = "0.5"
    stage.until_ready(stage.start("worker"), stage.start("control"))
    stage.request(*UNDER_WAY)
    until(lambda: len(running(stage)) == len(UNDER_WAY), what="two runs are under way")
    stage.request(*QUEUED)
    counted = Counter(run.status for run in stage.unfinished())
    assert counted == {"running": 2, "queued": 50}, counted

    with stage.outage():
        stage.valkey.stop()
        shutil.rmtree(stage.valkey.data)
        time.sleep(30)
        stage.valkey.start()
    stage.hurt()
    stage.settle(within=120)
    ended = Counter(row.status for row in stage.rows("SELECT status FROM runs"))
    assert ended == {"succeeded": len(sources)}, ended
    return f"all {len(sources)} runs ended well, each once"
