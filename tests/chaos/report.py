"""The faults as a table: in the terminal, and between two markers of a document."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.outcome import Outcome
from tests.marked import Place

COLUMNS = ("fault", "what was seen", "time to recovery", "rows lost", "rows doubled")
WIDTH = 160
PLACE = Place("chaos")


def show(outcomes: Sequence[Outcome], seed: int) -> None:
    """The table on standard output."""
    table = Table(title=f"chaos, seed {seed}", show_lines=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold", justify="left" if column in COLUMNS[:2] else "right")
    for outcome in outcomes:
        table.add_row(*cells(outcome), style="red" if outcome.broken else "dim" if outcome.not_run else None)
    # What is no terminal tells no width.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def cells(outcome: Outcome) -> tuple[str, ...]:
    if outcome.not_run is not None:
        return outcome.name, f"not run: {outcome.not_run}", "", "", ""
    seen = "BROKEN: " + "; ".join(outcome.broken) if outcome.broken else outcome.seen
    recovery = "" if outcome.recovery is None else f"{outcome.recovery:.1f} s"
    return outcome.name, seen, recovery, str(outcome.lost), str(outcome.doubled)


def last_line(outcomes: Sequence[Outcome]) -> str:
    """Of what ran."""
    ran = [outcome for outcome in outcomes if outcome.not_run is None]
    counts, lost, doubled, stuck = (
        sum(getattr(outcome, name) for outcome in ran) for name in ("counts", "lost", "doubled", "stuck")
    )
    return f"chaos: {counts} faults, {lost} rows lost, {doubled} rows doubled, {stuck} runs stuck"


def write(file: Path, outcomes: Sequence[Outcome], seed: int, rounds: int) -> None:
    """Put the table into a document, in the place that it leaves for it."""
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
