"""Print the lines and branches that the tests reach, by package, from coverage.py's JSON report.

Exit with 1 when they reach fewer lines than --least percent.
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
    """Return the sums of each package's counts, and of all files as `total`."""
    packages: dict[str, Counter[str]] = {}
    for path, file in sorted(files.items()):
        for package in (package_of(path), TOTAL):
            packages.setdefault(package, Counter()).update(file["summary"])
    packages[TOTAL] = packages.pop(TOTAL, Counter())
    return packages


def package_of(path: str) -> str:
    """Return a file's folder, at most two levels deep, such as `store/migrations`, or a top-level file itself."""
    folder = PurePosixPath(path).parts[:-1][:2]
    return "/".join(folder) or path


def table(packages: Mapping[str, Counter[str]]) -> Iterator[str]:
    """Yield the lines of the table."""
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
    parser.add_argument("--least", type=float, default=0, help="minimum percentage of lines that the tests must reach")
    options = parser.parse_args(arguments)
    packages = by_package(json.loads(options.report.read_text())["files"])
    sys.stdout.write("\n".join(table(packages)) + "\n")
    reached = percent(packages[TOTAL]["covered_lines"], packages[TOTAL]["num_statements"])
    if reached < options.least:
        sys.stderr.write(f"The tests reach {reached:.2f} % of the lines; at least {options.least:g} % are required.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
