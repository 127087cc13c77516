"""Run one fault, and check every invariant afterwards."""

from __future__ import annotations

import shutil
import sys
import traceback
from pathlib import Path

from tests.chaos.invariants import Baseline, asset_differences, assets, compare, content_by_source, violations
from tests.chaos.outcome import Outcome
from tests.chaos.registry import Fault, NotRun
from tests.chaos.servers import Servers
from tests.chaos.stage import Stage

ALLOWANCE = 3.0
"""Seconds that a busy machine may add to the maximum time that a run may be stuck."""

KNOWN = ("coinpaprika", "coingecko", "csv_history")


def record_baseline(servers: Servers, folder: Path) -> Baseline:
    """Return the data of undisturbed runs of all sources. Raise AssertionError if it violates an invariant."""
    with Stage(servers, folder) as stage:
        stage.start("worker")
        stage.start("control")
        stage.request(*KNOWN)
        stage.settle()
        with stage.engine.connect() as connection:
            failures = list(violations(connection))
            assert not failures, failures
            return Baseline(content_by_source(connection), assets(connection))


def perform(fault: Fault, servers: Servers, folder: Path, baseline: Baseline) -> Outcome:
    """Run a fault on a new stage, and check every invariant. Keep its logs if it failed."""
    with Stage(servers, folder) as stage:
        stage.outcome.name = fault.name
        stage.baseline, stage.expected_rows = baseline, dict(baseline.content)
        try:
            stage.outcome.result = fault.act(stage)
        except NotRun as reason:
            stage.outcome.not_run = str(reason)
        except Exception as error:  # noqa: BLE001 — the other faults run whatever was raised
            stage.outcome.failures.append(f"{type(error).__name__}: {error}")
            sys.stderr.write(traceback.format_exc())
        if stage.outcome.not_run is None:
            check(stage)
    if not stage.outcome.failures:
        shutil.rmtree(folder, ignore_errors=True)
    return stage.outcome


def check(stage: Stage) -> None:
    """Check every invariant once all runs have finished, and add failures to the stage's outcome."""
    try:
        stage.restore_servers()
        _check_runs(stage, stage.outcome)
        _check_data(stage, stage.outcome)
    except Exception as error:  # noqa: BLE001 — a failed check is a failure of the fault
        stage.outcome.failures.append(f"the check failed: {type(error).__name__}: {error}")


def _check_runs(stage: Stage, outcome: Outcome) -> None:
    """Check that every run finished, none failed unexpectedly, and none was stuck for longer than lease + sweep."""
    stage.stop_beat()
    try:
        stage.settle()
    except AssertionError:
        for run in stage.unfinished():
            outcome.stuck += 1
            outcome.failures.append(f"run {run.id} of {run.source} is still {run.status}: {run.waiting_reason}")
    for run in stage.unexpected_failures():
        outcome.failures.append(f"run {run.id} of {run.source} failed: {run.error_code}: {run.error_detail}")
    bound = stage.times["LEASE"] + stage.times["SWEEP_EVERY"] + ALLOWANCE
    if stage.watch.max_stuck > bound:
        outcome.stuck += 1
        watch = stage.watch
        outcome.failures.append(f"stuck for {watch.max_stuck:.1f} s of at most {bound:g} s: {watch.max_stuck_run}")


def _check_data(stage: Stage, outcome: Outcome) -> None:
    outcome.failures += stage.watch.failures
    with stage.engine.connect() as connection:
        outcome.failures += violations(connection)
        sources = stage.compared_sources()
        difference = compare(connection, stage.expected_rows, sources, stage.changed_files)
        unchanged = {name for name, rows in stage.baseline.content.items() if stage.expected_rows[name] is rows}
        outcome.failures += asset_differences(assets(connection), stage.baseline.assets, sources & unchanged)
    outcome.lost += difference.lost
    outcome.duplicated += difference.duplicated
    outcome.failures += difference.failures
