"""Change a CSV file in every way that programs change files, and note each record that was ever in it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

HEADER = b"coin,price,time\n"
SECOND = "2026-01-31T10:00:00Z"
COLUMNS = {"source_asset_id": "coin", "symbol": "coin", "name": "coin", "price": "price", "observed_at": "time"}
CONSTANTS = {"quote_currency": "USD"}

Record = tuple[str, Decimal]
"""A coin and its price."""


def lines(content: bytes) -> list[bytes]:
    """Return the lines after the header that have a line end."""
    return content.split(b"\n")[1:-1]


def records(content: bytes) -> set[Record]:
    """Return the valid records of a file."""
    cells = [line.decode().split(",") for line in lines(content)]
    return {(coin, Decimal(price)) for coin, price, time in (row for row in cells if len(row) == 3) if time == SECOND}


class Writer:
    """A program that changes one file in every way that programs do, and notes each record that was ever in it."""

    def __init__(self, path: Path, chance: random.Random):
        self._path, self._chance, self._generation, self._rest = path, chance, 0, b""
        self.written: set[Record] = set()
        self._changes: list[Callable[[], None]] = [
            self._append,
            self._append_half,
            self._rewrite_larger,
            self._rewrite_smaller,
            self._empty_and_write,
            self._replace_with_same_size_and_time,
            self._truncate,
        ]
        self._path.write_bytes(HEADER + self._new_lines(0, 400))
        self._note()

    def change(self) -> None:
        self._chance.choice(self._changes)()

    def finish(self) -> bytes:
        """Remove what is no valid record, and add some. Return the content."""
        self._rest = b""
        content = self._path.read_bytes()
        self._write(HEADER + b"".join(line + b"\n" for line in lines(content) if records(HEADER + line + b"\n")))
        self._append()
        return self._path.read_bytes()

    def _new_lines(self, first: int, count: int, digits: int | None = None) -> bytes:
        self._generation += 1
        # Longer prices move all following lines. Most parts of a line that lack its start look like a record.
        digits = self._chance.randint(4, 18) if digits is None else digits
        numbers = range(first, first + count)
        return b"".join(b"c%050d,%0*d.%d,%s\n" % (n, digits, self._generation, n + 1, SECOND.encode()) for n in numbers)

    def _count(self) -> int:
        return len(lines(self._path.read_bytes()))

    def _note(self) -> None:
        self.written |= records(self._path.read_bytes())

    def _write(self, content: bytes, *, flags: int = os.O_TRUNC) -> None:
        file = os.open(self._path, os.O_WRONLY | flags)
        self._note()
        os.write(file, content)
        os.close(file)
        self._note()

    def _append(self) -> None:
        rest, self._rest = self._rest, b""
        self._write(rest + self._new_lines(self._count(), self._chance.randint(1, 9)), flags=os.O_APPEND)

    def _append_half(self) -> None:
        new = self._rest + self._new_lines(self._count(), self._chance.randint(1, 9))
        cut = self._chance.randrange(len(new))
        self._rest = new[cut:]
        self._write(new[:cut], flags=os.O_APPEND)

    def _rewrite_larger(self) -> None:
        self._rest = b""
        size = self._path.stat().st_size
        self._write((HEADER + self._new_lines(0, min(self._count() + 100, 800), 18)).ljust(size, b"\n"), flags=0)

    def _rewrite_smaller(self) -> None:
        self._rest = b""
        content = HEADER + self._new_lines(0, max(100, self._count() * 2 // 3), 4)
        self._write(content, flags=0)
        os.truncate(self._path, len(content))
        self._note()

    def _empty_and_write(self) -> None:
        self._rest = b""
        self._write(HEADER + self._new_lines(0, self._chance.randint(100, 500)))

    def _replace_with_same_size_and_time(self) -> None:
        self._rest = b""
        status, content = self._path.stat(), self._path.read_bytes()
        end = content.rfind(b"\n") + 1
        # Another digit in each price: the same length, and the same line ends.
        other = content[:end].replace(b".", b"%d." % self._chance.randint(1, 9)).replace(b"0" * 2, b"0", 1)
        new = self._path.with_suffix(".new")
        new.write_bytes(other[: status.st_size].ljust(status.st_size, b"\n"))
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        self.written |= records(new.read_bytes())
        new.replace(self._path)

    def _truncate(self) -> None:
        self._rest = b""
        size = self._path.stat().st_size
        if size > len(HEADER):
            os.truncate(self._path, self._chance.randint(max(len(HEADER), size // 2), size))
            self._note()
