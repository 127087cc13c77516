"""Reads the logs of all parts together, each line with the name of its part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

TAIL_BYTES = 64_000


class LogReader:
    """New lines of every *.log in a folder, from the last lines of each on."""

    def __init__(self, folder: Path, last: int = 0):
        self.folder = folder
        self.read_to: dict[Path, int] = {}
        self.first = {log: _tail(log, last) for log in sorted(folder.glob("*.log"))}
        for log in self.first:
            self.read_to[log] = log.stat().st_size

    def new_lines(self) -> Iterator[str]:
        for log, lines in self.first.items():
            yield from (_named(log, line) for line in lines)
        self.first = {}
        for log in sorted(self.folder.glob("*.log")):
            yield from (_named(log, line) for line in self._new(log))

    def _new(self, log: Path) -> list[str]:
        since = self.read_to.get(log, 0)
        if log.stat().st_size < since:  # it was started over
            since = 0
        with log.open("rb") as file:
            file.seek(since)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.read_to[log] = since + len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()


def _named(log: Path, line: str) -> str:
    return f"{log.stem:<10} | {line}"


def _tail(log: Path, count: int) -> list[str]:
    if not count:
        return []
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-count:]
