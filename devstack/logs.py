"""Read the logs of all components together, each line with the name of its component."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TAIL_BYTES = 64_000


class LogReader:
    """A reader of every *.log in a folder: first the last lines of each log, then new lines."""

    def __init__(self, folder: Path, last: int = 0):
        self.folder = folder
        self.offsets: dict[Path, int] = {}
        self.tails = {log: _tail(log, last) for log in sorted(folder.glob("*.log"))}
        for log in self.tails:
            self.offsets[log] = log.stat().st_size

    def new_lines(self) -> Iterator[str]:
        """Yield the lines since the last call, grouped by component."""
        for log, lines in self.tails.items():
            yield from (_with_name(log, line) for line in lines)
        self.tails = {}
        for log in sorted(self.folder.glob("*.log")):
            yield from (_with_name(log, line) for line in self._read(log))

    def _read(self, log: Path) -> list[str]:
        offset = self.offsets.get(log, 0)
        if log.stat().st_size < offset:  # The file was truncated.
            offset = 0
        with log.open("rb") as file:
            file.seek(offset)
            lines, newline, _ = file.read().rpartition(b"\n")
        self.offsets[log] = offset + len(lines) + len(newline)
        return lines.decode(errors="replace").splitlines()


def _with_name(log: Path, line: str) -> str:
    return f"{log.stem:<10} | {line}"


def _tail(log: Path, count: int) -> list[str]:
    if not count:
        return []
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-count:]
