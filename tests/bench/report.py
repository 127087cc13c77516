"""Print the figures as a table, write it between two markers of a document, and write the medians as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, Measured
from tests.marked import Place

COLUMNS = ("figure", "meaning", "min", "median", "max", "target", "")
WIDTH = 160
PLACE = Place("bench")


def show(measured: Measured, title: str) -> None:
    """Print the table."""
    table = Table(title=title, show_lines=False)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, overflow="fold", justify="left" if number < 2 else "right")
    for figure in measured.figures():
        table.add_row(*_cells(figure, measured))
    # Do not wrap lines, since only a terminal has a width.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    for part, reason in measured.not_measured.items():
        sys.stdout.write(f"{part}: not measured: {reason}\n")
    for part, failure in measured.failures.items():
        sys.stdout.write(f"FAILED: {part}: {failure}\n")


def write_medians(measured: Measured, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(measured.medians(), indent=2) + "\n", encoding="utf-8")


def write(file: Path, measured: Measured, title: str) -> None:
    """Replace the table between the markers of a document."""
    lines = [
        title,
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(_cells(figure, measured))} |" for figure in measured.figures()),
        *(f"\n{part}: not measured: {reason}" for part, reason in measured.not_measured.items()),
    ]
    PLACE.write(file, lines)


def _cells(figure: Figure, measured: Measured) -> tuple[str, ...]:
    values, median = measured.values[figure.key], measured.median(figure)
    verdict = "" if not figure.target else "met" if figure.is_met(median) else "missed"
    return figure.key, figure.meaning, *map(_format, (min(values), median, max(values))), figure.target, verdict


def _format(value: float) -> str:
    """Return a value with three significant digits, or as a whole number if it is at least 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
