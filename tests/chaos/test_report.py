"""Test that the table and the last line of the fault-injection suite report the faults that ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.outcome import Outcome
from tests.chaos.report import PLACE, last_line, write
from tests.processes import ROOT

OUTCOMES = [
    Outcome("killed", result="another continued | in 2 starts", recovery=6.04),
    Outcome("rounds", result="3 kills", fault_count=20),
    Outcome("disk full", not_run="no tmpfs", lost=9, stuck=9),
]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Return a copy of the real document."""
    copy = tmp_path / "reliability.md"
    copy.write_text((ROOT / "docs/explanation/reliability.md").read_text())
    return copy


def test_the_last_line_counts_only_the_faults_that_ran() -> None:
    assert last_line(OUTCOMES) == "chaos: 21 faults, 0 rows lost, 0 rows duplicated, 0 runs stuck"


def test_the_last_line_sums_up_losses() -> None:
    outcomes = [Outcome("a", lost=2, duplicated=1), Outcome("b", lost=3, stuck=1)]
    assert last_line(outcomes) == "chaos: 2 faults, 5 rows lost, 1 rows duplicated, 1 runs stuck"


def test_the_table_is_written_between_the_markers_with_the_command_that_made_it(document: Path) -> None:
    before, after = document.read_text().split(PLACE.begin)[0], document.read_text().split(PLACE.end)[1]
    write(document, OUTCOMES, seed=7, rounds=20)
    written = document.read_text()
    assert written.startswith(before)
    assert written.endswith(after)
    assert "`make chaos ROUNDS=20 SEED=7`" in written
    assert "| killed | another continued \\| in 2 starts | 6.0 s | 0 | 0 |" in written
    assert "| disk full | not run: no tmpfs |  |  |  |" in written
    assert f"`{last_line(OUTCOMES)}`" in written


def test_writing_the_table_again_replaces_it(document: Path) -> None:
    write(document, OUTCOMES, seed=7, rounds=20)
    first = document.read_text()
    write(document, OUTCOMES, seed=7, rounds=20)
    assert document.read_text() == first


def test_a_document_without_markers_is_left_unchanged(tmp_path: Path) -> None:
    document = tmp_path / "other.md"
    document.write_text("nothing here")
    with pytest.raises(ValueError, match="has no markers for the table"):
        write(document, OUTCOMES, seed=7, rounds=20)
    assert document.read_text() == "nothing here"
