"""Test the table of `make coverage`, and its failure below the minimum coverage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.coverage_by_package import main


def report(folder: Path, **files: tuple[int, int]) -> str:
    """Write a JSON report and return its path. files: the number of lines and of covered lines of each file."""
    counts = {
        path.replace("__", "/") + ".py": {
            "summary": {
                "num_statements": lines,
                "covered_lines": covered,
                "missing_lines": lines - covered,
                "num_branches": 2,
                "covered_branches": 1,
                "missing_branches": 1,
            }
        }
        for path, (lines, covered) in files.items()
    }
    file = folder / "report.json"
    file.write_text(json.dumps({"files": counts}))
    return str(file)


def test_files_are_summed_by_folder_and_top_level_files_are_listed_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "settings": (10, 10),
        "app__web__etags": (30, 20),
        "app__web__auth": (10, 10),
        "store__migrations__versions__0001": (5, 5),
    }
    assert main([report(tmp_path, **files)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [
        ["app/web", "40", "10", "75.0%", "4", "2", "50.0%"],
        ["settings.py", "10", "0", "100.0%", "2", "1", "50.0%"],
        ["store/migrations", "5", "0", "100.0%", "2", "1", "50.0%"],
        ["total", "55", "10", "81.8%", "8", "4", "50.0%"],
    ]


@pytest.mark.parametrize(("covered", "status"), [(95, 0), (94, 1)])
def test_the_command_fails_below_the_minimum_line_coverage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], covered: int, status: int
) -> None:
    assert main([report(tmp_path, settings=(100, covered)), "--minimum", "95"]) == status
    assert ("The minimum is 95 %" in capsys.readouterr().err) == bool(status)
