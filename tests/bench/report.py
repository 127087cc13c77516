"""The figures as a table: in the terminal, between two markers of a document, and their medians as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, Measured
from tests.marked import Place

COLUMNS = ("figure", "what it is", "min", "median", "max", "target", "")
WIDTH = 160
PLACE = Place("bench")


def show(measured: Measured, title: str) -> None:
    """The table on standard output."""
    table = Table(title=title, show_lines=False)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, overflow="fold", justify="left" if number < 2 else "right")
    for figure in measured.figures():
        table.add_row(*_cells(figure, measured))
    # What is no terminal tells no width.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    for part, why in measured.not_measured.items():
        sys.stdout.write(f"{part}: not measured: {why}\n")
    for part, what in measured.broken.items():
        sys.stdout.write(f"BROKEN: {part}: {what}\n")


def keep(measured: Measured, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(measured.medians(), indent=2) + "\n", encoding="utf-8")


def write(file: Path, measured: Measured, title: str) -> None:
    """Put the table into a document, in the place that it leaves for it."""
    lines = [
        title,
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(_cells(figure, measured))} |" for figure in measured.figures()),
        *(f"\n{part}: not measured: {why}" for part, why in measured.not_measured.items()),
    ]
    PLACE.write(file, lines)


def _cells(figure: Figure, measured: Measured) -> tuple[str, ...]:
    values, median = measured.values[figure.key], measured.median(figure)
    verdict = "" if not figure.target else "met" if figure.is_met(median) else "missed"
    return figure.key, figure.about, *map(_shown, (min(values), median, max(values))), figure.target, verdict


def _shown(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
