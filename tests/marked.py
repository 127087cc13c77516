"""Write the results of a suite into a document, between two markers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The lines of a document between the two markers of a suite.

    name: the suite's name in the markers.
    """

    name: str

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: begin -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"

    def around(self, file: Path) -> tuple[str, str]:
        """Return the text before and after the markers. Raise ValueError if the document lacks the markers."""
        before, _, rest = file.read_text(encoding="utf-8").partition(self.begin)
        _, marked, after = rest.partition(self.end)
        if not marked:
            raise ValueError(f"{file} has no markers for the table. Add the lines {self.begin} and {self.end}.")
        return before, after

    def write(self, file: Path, lines: Sequence[str]) -> None:
        """Replace the content between the markers with these lines."""
        before, after = self.around(file)
        file.write_text(before + "\n".join([self.begin, "", *lines, "", self.end]) + after, encoding="utf-8")
