"""The place that a document leaves, between two markers, for what a suite writes when it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """name: of the suite, in the markers."""

    name: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: begin -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"

    def around(self, file: Path) -> tuple[str, str]:
        """What stands before and behind it; raises ValueError if the document has no such place."""
        before, _, rest = file.read_text(encoding="utf-8").partition(self.begin)
        _, marked, after = rest.partition(self.end)
        if not marked:
            raise ValueError(f"{file} has no place for the table: it needs the lines {self.begin} and {self.end}")
        return before, after

    def write(self, file: Path, lines: Sequence[str]) -> None:
        """Put these lines there, in place of what is there."""
        before, after = self.around(file)
        file.write_text(before + "\n".join([self.begin, "", *lines, "", self.end]) + after, encoding="utf-8")
