"""Test that the table shows minimum, median, maximum and verdict, and that the JSON contains the medians."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.figures import FIGURES, Measured
from tests.bench.report import PLACE, write, write_medians
from tests.processes import ROOT

REQUIRED = """
load.first_vs_copy load.unchanged_vs_copy load.first_vs_dlt load.unchanged_vs_dlt load.vs_sqlalchemy
load.unchanged_wal_share load.growth_10m load.two_workers read.page_p50_vs_hello read.throughput_vs_fastapi
read.deep_vs_first read.latest_vs_first export.rss_mb
"""


@pytest.fixture
def measured() -> Measured:
    measured = Measured()
    for ratio in (0.7, 0.8, 0.9):
        measured.note({"load.first_vs_copy": ratio, "load.copy_rows_s": ratio * 100_000})
    measured.note({"read.deep_vs_first": 1.61})
    measured.not_measured["exports"] = "no such format"
    return measured


def test_every_required_figure_is_declared() -> None:
    assert set(REQUIRED.split()) <= {figure.key for figure in FIGURES}


def test_the_json_has_the_medians_by_name(measured: Measured, tmp_path: Path) -> None:
    write_medians(measured, tmp_path / "bench.json")
    medians = json.loads((tmp_path / "bench.json").read_text())
    assert medians == {"load.first_vs_copy": 0.8, "load.copy_rows_s": 80_000, "read.deep_vs_first": 1.61}


def test_the_table_is_written_between_the_markers(measured: Measured, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text((ROOT / "docs/explanation/performance.md").read_text())
    before, after = PLACE.around(document)
    write(document, measured, "bench, this machine")
    written = document.read_text()
    assert written.startswith(before)
    assert written.endswith(after)
    assert "bench, this machine" in written
    assert "| 0.7 | 0.8 | 0.9 | ≥ 0.75 | met |" in written
    assert "| 70,000 | 80,000 | 90,000 |  |  |" in written
    assert "| 1.61 | 1.61 | 1.61 | ≤ 1.5 | missed |" in written
    assert "exports: not measured: no such format" in written


def test_an_undeclared_figure_is_refused() -> None:
    with pytest.raises(KeyError):
        Measured().note({"load.first_vs_cpoy": 1})
