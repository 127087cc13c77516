"""Change one file of csv_history, so that only its prices differ from those of an undisturbed run until it is restored.

Every version of the file has the same records. Each change writes prices that no earlier version had.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from typing import Literal, get_args

from tests.chaos.stage import Stage

NAME = "zilliqa_prices.csv"
PRICE = b";0,0"
"""The start of each price of the file."""

CLOSE = 7
"""The column of the closing price, which is the price of the quote."""

COIN = "Zilliqa"

Change = Literal["rewrite", "append", "truncate", "replace"]
CHANGES: tuple[Change, ...] = get_args(Change)


class HistoryFile:
    """The file, in a copy of the folder for this fault. Create it before starting a process of the service."""

    def __init__(self, stage: Stage):
        folder = stage.folder / "csv"
        shutil.copytree(stage.servers.csv, folder)
        stage.environ["CSV_DIR"] = str(folder)
        stage.changed_files.add(NAME)
        self.path = folder / NAME
        self._original = self.path.read_bytes()
        self._versions = count(1)
        self._rest = b""
        self._changes: dict[Change, Callable[[], None]] = {
            "rewrite": self.rewrite,
            "append": self.append,
            "truncate": self.truncate,
            "replace": self.replace,
        }

    @property
    def records(self) -> int:
        return len(self._original.splitlines()) - 1

    @property
    def prices(self) -> set[Decimal]:
        """Return the closing price of each complete record that the file contains now."""
        lines = self.path.read_text(encoding="utf-8").split("\r\n")[1:-1]
        return {Decimal(line.split(";")[CLOSE].replace(",", ".")) for line in lines}

    def change(self, change: Change) -> None:
        self._changes[change]()

    def rewrite(self) -> None:
        """Write other prices in place."""
        self._write(self._next_version())

    def append(self) -> None:
        """Append the records that the last change left out. If there are none, append the second half of a version."""
        if not self._rest:
            self.truncate()
        rest, self._rest = self._rest, b""
        with self.path.open("ab") as file:
            file.write(rest)

    def truncate(self) -> None:
        """Cut the file in the middle of a record, and leave the rest for append()."""
        content = self.path.read_bytes() + self._rest
        half = len(content) // 2
        os.truncate(self.path, half)
        self._rest = content[half:]

    def replace(self) -> None:
        """Replace the file by another one of the same modification time, and of the same size as a complete version."""
        status, new = self.path.stat(), self.path.with_suffix(".new")
        new.write_bytes(self._next_version())
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        self._rest = b""
        new.replace(self.path)

    def restore(self) -> None:
        """Write the original content."""
        self._write(self._original)

    def _next_version(self) -> bytes:
        return self._original.replace(PRICE, b";0,%d" % next(self._versions))

    def _write(self, content: bytes) -> None:
        self._rest = b""
        with self.path.open("r+b") as file:
            file.write(content)
            file.truncate()
