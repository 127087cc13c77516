"""Run two beats, freeze one, or stop beat for several slots: each slot gets the runs of its policy."""

from __future__ import annotations

import signal
from itertools import pairwise

from tests.chaos.registry import fault
from tests.chaos.stage import Stage
from tests.processes import Process, until

BUSY = ("coingecko", "coinpaprika")
SLOT_SECONDS = 2
"""Seconds between two slots of the busy sources."""

MISSED_SLOTS = 4
"""The minimum number of slots without a running beat."""

RARE_SLOT_SECONDS = 300 * 86400
"""Seconds between two slots of the source that is never due again during a test."""


@fault("two beats at once: one frozen, then the other killed")
def two_beats(stage: Stage) -> str:
    first, second = _schedule(stage, "beat", "beat")
    stage.mark_fault()
    first.signal(signal.SIGSTOP)
    _await_slots(stage)
    first.signal(signal.SIGCONT)
    second.kill()
    _await_slots(stage)
    stage.stop_beat()
    stage.settle()
    slots_by_source = [_slots(stage, source) for source in BUSY]
    for slots in slots_by_source:
        assert {late - early for early, late in pairwise(slots)} == {SLOT_SECONDS}, f"skipped or duplicated: {slots}"
    return f"one run for each of {sum(map(len, slots_by_source))} slots"


@fault("no beat for several slots, with one source for each catch-up policy")
def beat_down(stage: Stage) -> str:
    """Check the catch-up policies: `all` runs every missed slot, `latest` only the current slot, and `skip` none."""
    stage.environ |= {"COINPAPRIKA_CATCH_UP": "latest", "CSV_HISTORY_CATCH_UP": "skip"}
    _schedule(stage, "beat")
    stage.stop_beat()
    stage.settle()
    stage.mark_fault()
    last = _slots(stage, "coinpaprika")[-1]
    resumes_at = last + (MISSED_SLOTS + 1) * SLOT_SECONDS
    until(lambda: stage.scalar("SELECT extract(epoch FROM clock_timestamp())") > resumes_at)
    # Backdate the slots of the rare source, as if beat had missed one of them.
    age = f"interval '{RARE_SLOT_SECONDS} s'"
    stage.rows(f"UPDATE runs SET scheduled_for = scheduled_for - {age} WHERE source = 'csv_history'")
    stage.rows(f"UPDATE sources SET last_slot = last_slot - {age} WHERE name = 'csv_history'")
    stage.start("beat")
    _await_slots(stage)
    stage.stop_beat()
    stage.settle()
    every, latest = _slots(stage, "coingecko"), _slots(stage, "coinpaprika")
    assert {late - early for early, late in pairwise(every)} == {SLOT_SECONDS}, (
        f"`all` skipped or duplicated a slot: {every}"
    )
    missed = (latest[latest.index(last) + 1] - last) // SLOT_SECONDS - 1
    assert missed >= MISSED_SLOTS, f"`latest` ran missed slots: {latest}"
    assert len(_slots(stage, "csv_history")) == 1, "`skip` ran an overdue slot"
    [slot] = _slots(stage, "csv_history")
    last_slot = stage.scalar("SELECT extract(epoch FROM last_slot) FROM sources WHERE name = 'csv_history'")
    assert last_slot == slot + RARE_SLOT_SECONDS, "`skip` did not advance the last slot"
    return f"of {missed} missed slots, `all` ran each, `latest` the current one, `skip` none"


def _schedule(stage: Stage, *beats: str) -> list[Process]:
    """Start a worker, control and these beats, and wait for some slots. Return the beats."""
    stage.environ |= {
        "COINGECKO_EVERY": str(SLOT_SECONDS),
        "COINPAPRIKA_EVERY": str(SLOT_SECONDS),
        "CSV_HISTORY_EVERY": str(RARE_SLOT_SECONDS),
    }
    stage.environ.setdefault("COINPAPRIKA_CATCH_UP", "all")
    stage.environ["COINGECKO_CATCH_UP"] = "all"
    stage.until_ready(stage.start("worker"), stage.start("control"))
    started = [stage.start(beat) for beat in beats]
    _await_slots(stage)
    return started


def _await_slots(stage: Stage) -> None:
    """Wait until each busy source has caught up and run at least three more slots."""
    minimums = {source: len(_slots(stage, source)) + 3 for source in BUSY}
    until(
        lambda: all(_has_caught_up(stage, source, minimums[source]) for source in BUSY),
        within=40,
        what="the schedule continues",
    )


def _has_caught_up(stage: Stage, source: str, minimum: int) -> bool:
    slots = _slots(stage, source)
    now = stage.scalar("SELECT extract(epoch FROM clock_timestamp())")
    return len(slots) >= minimum and slots[-1] > now - 2 * SLOT_SECONDS


def _slots(stage: Stage, source: str) -> list[int]:
    """Return the slots that have a run, in seconds since the epoch, in the order of the requests."""
    rows = stage.rows(
        """
        SELECT extract(epoch FROM scheduled_for)::bigint AS slot FROM runs WHERE source = :source ORDER BY requested_at
        """,
        source=source,
    )
    return [row.slot for row in rows]
