"""Print the faults as a table, and write it between two markers of a document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.outcome import Outcome
from tests.marked import Place

COLUMNS = ("fault", "result", "time to recovery", "rows lost", "rows duplicated")
WIDTH = 160
PLACE = Place("chaos")


def show(outcomes: Sequence[Outcome], seed: int) -> None:
    """Print the table."""
    table = Table(title=f"chaos, seed {seed}", show_lines=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold", justify="left" if column in COLUMNS[:2] else "right")
    for outcome in outcomes:
        table.add_row(*cells(outcome), style="red" if outcome.failures else "dim" if outcome.not_run else None)
    # Do not wrap lines, since only a terminal has a width.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def cells(outcome: Outcome) -> tuple[str, ...]:
    if outcome.not_run is not None:
        return outcome.name, f"not run: {outcome.not_run}", "", "", ""
    result = "FAILED: " + "; ".join(outcome.failures) if outcome.failures else outcome.result
    recovery = "" if outcome.recovery is None else f"{outcome.recovery:.1f} s"
    return outcome.name, result, recovery, str(outcome.lost), str(outcome.duplicated)


def last_line(outcomes: Sequence[Outcome]) -> str:
    """Return the totals of the faults that ran."""
    ran = [outcome for outcome in outcomes if outcome.not_run is None]
    faults, lost, duplicated, stuck = (
        sum(getattr(outcome, name) for outcome in ran) for name in ("fault_count", "lost", "duplicated", "stuck")
    )
    return f"chaos: {faults} faults, {lost} rows lost, {duplicated} rows duplicated, {stuck} runs stuck"


def write(file: Path, outcomes: Sequence[Outcome], seed: int, rounds: int) -> None:
    """Replace the table between the markers of a document."""
    lines = [
        f"`make chaos ROUNDS={rounds} SEED={seed}`",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- | --- | ---: | ---: | ---: |",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in cells(outcome)) + " |" for outcome in outcomes),
        "",
        f"`{last_line(outcomes)}`",
    ]
    PLACE.write(file, lines)
