"""Print the line and branch coverage of each package, from coverage.py's JSON report.

Exit with 1 if the line coverage of all files is below --minimum percent.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

TOTAL = "total"


def by_package(files: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Return the summed counts of each package, and of all files as `total`."""
    packages: dict[str, Counter[str]] = {}
    for path, file in sorted(files.items()):
        for package in (package_of(path), TOTAL):
            packages.setdefault(package, Counter()).update(file["summary"])
    packages[TOTAL] = packages.pop(TOTAL, Counter())
    return packages


def package_of(path: str) -> str:
    """Return a file's folder, at most two levels deep, such as `store/migrations`, or a top-level file's own name."""
    folder = PurePosixPath(path).parts[:-1][:2]
    return "/".join(folder) or path


def table(packages: Mapping[str, Counter[str]]) -> Iterator[str]:
    """Yield the lines of the coverage table."""
    yield f"{'package':<24}{'lines':>8}{'missed':>8}{'':>7}{'branches':>10}{'missed':>8}"
    for package, counts in packages.items():
        lines, branches = counts["num_statements"], counts["num_branches"]
        yield (
            f"{package:<24}{lines:>8}{counts['missing_lines']:>8}{percent(counts['covered_lines'], lines):>6.1f}%"
            f"{branches:>10}{counts['missing_branches']:>8}{percent(counts['covered_branches'], branches):>6.1f}%"
        )


def percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 100.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="the file that `coverage json` wrote")
    parser.add_argument(
        "--minimum", type=float, default=0, help="minimum percentage of lines that the tests must cover"
    )
    options = parser.parse_args(arguments)
    packages = by_package(json.loads(options.report.read_text())["files"])
    sys.stdout.write("\n".join(table(packages)) + "\n")
    covered = percent(packages[TOTAL]["covered_lines"], packages[TOTAL]["num_statements"])
    if covered < options.minimum:
        sys.stderr.write(f"The tests cover {covered:.2f} % of the lines. The minimum is {options.minimum:g} %.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
