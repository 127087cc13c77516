"""One fault from its beginning to the judgement on what it left behind."""

from __future__ import annotations

import shutil
import sys
import traceback
from pathlib import Path

from tests.chaos.invariants import Loaded, assets, broken, compare, content_by_source, of_other_assets
from tests.chaos.outcome import Outcome
from tests.chaos.servers import Servers
from tests.chaos.stage import Fault, NotRun, Stage

ALLOWANCE = 3.0
"""Seconds that a busy machine may add to the longest time a run may be stuck."""

KNOWN = ("coinpaprika", "coingecko", "csv_history")


def learn_undisturbed(servers: Servers, folder: Path) -> Loaded:
    """What each source's data is when nothing happens. Raises AssertionError if even then something is broken."""
    with Stage(servers, folder) as stage:
        stage.start("worker")
        stage.start("control")
        stage.request(*KNOWN)
        stage.settle()
        with stage.engine.connect() as connection:
            assert not (wrong := list(broken(connection))), wrong
            return Loaded(content_by_source(connection), assets(connection))


def perform(fault: Fault, servers: Servers, folder: Path, undisturbed: Loaded) -> Outcome:
    """Run a fault in a world of its own, and check every invariant; its logs are kept where something is broken."""
    with Stage(servers, folder) as stage:
        stage.outcome.name = fault.name
        stage.base, stage.undisturbed = undisturbed, dict(undisturbed.content)
        try:
            stage.outcome.seen = fault.act(stage)
        except NotRun as why:
            stage.outcome.not_run = str(why)
        except Exception as error:  # noqa: BLE001 — whatever it is, the other faults are still to be run
            stage.outcome.broken.append(f"{type(error).__name__}: {error}")
            sys.stderr.write(traceback.format_exc())
        if stage.outcome.not_run is None:
            judge(stage)
    if not stage.outcome.broken:
        shutil.rmtree(folder, ignore_errors=True)
    return stage.outcome


def judge(stage: Stage) -> None:
    """Check every invariant, once all runs have ended, and add what is broken to the stage's outcome."""
    try:
        stage.heal_servers()
        _judge_runs(stage, stage.outcome)
        _judge_data(stage, stage.outcome)
    except Exception as error:  # noqa: BLE001 — what cannot be judged is not in order
        stage.outcome.broken.append(f"it cannot be judged: {type(error).__name__}: {error}")


def _judge_runs(stage: Stage, outcome: Outcome) -> None:
    """No run is left, none failed that should not, none was stuck for longer than lease + sweep."""
    stage.end_schedule()
    try:
        stage.settle()
    except AssertionError:
        for run in stage.unfinished():
            outcome.stuck += 1
            outcome.broken.append(f"run {run.id} of {run.source} is still {run.status}: {run.waiting_reason}")
    for run in stage.failed():
        outcome.broken.append(f"run {run.id} of {run.source} failed: {run.error_code}: {run.error_detail}")
    bound = stage.times["LEASE"] + stage.times["SWEEP_EVERY"] + ALLOWANCE
    if stage.watch.longest > bound:
        outcome.stuck += 1
        outcome.broken.append(f"stuck for {stage.watch.longest:.1f} s, of {bound:g} allowed: {stage.watch.longest_is}")


def _judge_data(stage: Stage, outcome: Outcome) -> None:
    outcome.broken += stage.watch.broken
    with stage.engine.connect() as connection:
        outcome.broken += broken(connection)
        sources = stage.compared()
        difference = compare(connection, stage.undisturbed, sources)
        as_ever = {name for name, rows in stage.base.content.items() if stage.undisturbed[name] is rows}
        outcome.broken += of_other_assets(assets(connection), stage.base.assets, sources & as_ever)
    outcome.lost += difference.lost
    outcome.doubled += difference.doubled
    outcome.broken += difference.broken
