"""Test that the troubleshooting guide names only log events and run codes that exist in the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOGGED = re.compile(r'\blog\.(?:debug|info|warning|error|exception)\(\s*"(\w+)"')
CODE = "\n".join(
    file.read_text()
    for folder in ("app", "tasks", "sources", "store")
    for file in sorted((ROOT / folder).rglob("*.py"))
)
TROUBLESHOOTING = (ROOT / "docs/howto/troubleshoot.md").read_text()


def events() -> set[str]:
    return {event for event in LOGGED.findall(CODE) if not event.endswith("_")}


def first_cells(page: str, heading: str) -> Iterator[str]:
    """Yield the code spans in the first column of a section's table."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        yield from re.findall(r"`([^`]*)`", cell)


def test_the_guide_names_only_events_that_are_logged() -> None:
    names = set(first_cells(TROUBLESHOOTING, "A log event"))
    assert len(names) > 20
    assert names - events() == set()


@pytest.mark.parametrize("heading", ["A run is waiting", "A run failed"])
def test_the_guide_names_only_codes_that_a_run_can_have(heading: str) -> None:
    codes = {code for code in first_cells(TROUBLESHOOTING, heading) if re.fullmatch(r"[a-z_]+", code)}
    assert len(codes) > 8
    assert {code for code in codes if f'"{code}"' not in CODE} == set()
