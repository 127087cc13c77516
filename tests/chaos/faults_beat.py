"""Beat twice, frozen, and dead for several slots: each slot gets one run, or what its source's policy says."""

from __future__ import annotations

import signal
from itertools import pairwise

from tests.chaos.stage import Stage, fault
from tests.processes import Process, until

BUSY = ("coingecko", "coinpaprika")
EVERY = 2
"""Seconds between two slots of the busy sources."""

MISSED = 4
"""Slots for which no beat is there."""

NEVER = 300 * 86400
"""Seconds between two slots, of which the present one began long ago."""


@fault("two beats at once, one of them frozen, then the other killed")
def two_beats(stage: Stage) -> str:
    first, second = _schedule(stage, "beat", "beat")
    stage.hurt()
    first.signal(signal.SIGSTOP)
    _go_on(stage)
    first.signal(signal.SIGCONT)
    second.kill()
    _go_on(stage)
    stage.end_schedule()
    stage.settle()
    slots = [_slots(stage, source) for source in BUSY]
    for source in slots:
        assert {late - early for early, late in pairwise(source)} == {EVERY}, f"left out or doubled: {source}"
    return f"one run for each of {sum(map(len, slots))} slots"


@fault("no beat for several slots, one source for each policy")
def a_dead_beat(stage: Stage) -> str:
    """`all` catches up, `latest` makes one run for what was missed, and `skip` none."""
    stage.environ |= {"COINPAPRIKA_CATCH_UP": "latest", "CSV_HISTORY_CATCH_UP": "skip"}
    _schedule(stage, "beat")
    stage.end_schedule()
    stage.settle()
    stage.hurt()
    last = _slots(stage, "coinpaprika")[-1]
    until(lambda: stage.one("SELECT extract(epoch FROM clock_timestamp())") > last + (MISSED + 1) * EVERY)
    # What a beat finds that was dead for more of these slots than anybody can wait for.
    stage.rows(f"UPDATE runs SET scheduled_for = scheduled_for - interval '{NEVER} s' WHERE source = 'csv_history'")
    stage.rows(f"UPDATE sources SET last_slot = last_slot - interval '{NEVER} s' WHERE name = 'csv_history'")
    stage.start("beat")
    _go_on(stage)
    stage.end_schedule()
    stage.settle()
    every, latest = _slots(stage, "coingecko"), _slots(stage, "coinpaprika")
    assert {late - early for early, late in pairwise(every)} == {EVERY}, f"`all` left out or doubled: {every}"
    missed = (latest[latest.index(last) + 1] - last) // EVERY - 1
    assert missed >= MISSED, f"`latest` ran what was missed: {latest}"
    assert len(_slots(stage, "csv_history")) == 1, "`skip` ran a slot that began long ago"
    [ran] = _slots(stage, "csv_history")
    answered = stage.one("SELECT extract(epoch FROM last_slot) FROM sources WHERE name = 'csv_history'")
    assert answered == ran + NEVER, "`skip` did not get on"
    return f"of {missed} missed slots `all` made up for each, `latest` for the present one, `skip` for none"


def _schedule(stage: Stage, *beats: str) -> list[Process]:
    """Beats, and who does what they ask for, some slots on."""
    stage.environ |= {"COINGECKO_EVERY": str(EVERY), "COINPAPRIKA_EVERY": str(EVERY), "CSV_HISTORY_EVERY": str(NEVER)}
    stage.environ.setdefault("COINPAPRIKA_CATCH_UP", "all")
    stage.environ["COINGECKO_CATCH_UP"] = "all"
    stage.until_ready(stage.start("worker"), stage.start("control"))
    started = [stage.start(beat) for beat in beats]
    _go_on(stage)
    return started


def _go_on(stage: Stage) -> None:
    """Until each source has caught up, and had some slots more."""
    enough = {source: len(_slots(stage, source)) + 3 for source in BUSY}
    until(
        lambda: all(_has_caught_up(stage, source, enough[source]) for source in BUSY),
        within=40,
        what="the schedule goes on",
    )


def _has_caught_up(stage: Stage, source: str, enough: int) -> bool:
    slots = _slots(stage, source)
    now = stage.one("SELECT extract(epoch FROM clock_timestamp())")
    return len(slots) >= enough and slots[-1] > now - 2 * EVERY


def _slots(stage: Stage, source: str) -> list[int]:
    """Those that got a run, in seconds since the epoch, in the order in which they did."""
    rows = stage.rows(
        """
        SELECT extract(epoch FROM scheduled_for)::bigint AS slot FROM runs WHERE source = :source ORDER BY requested_at
        """,
        source=source,
    )
    return [row.slot for row in rows]
