"""Write price histories as CSV files: one coin after another, each in order of time. The files never vary."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

FILE = "coin_history/coin_bench.csv"
"""The file's path below CSV_DIR. sources/csv_history.py declares its format."""

HEADER = "SNo,Name,Symbol,Date,High,Low,Open,Close,Volume,Marketcap\n"
BEGIN = datetime(2015, 1, 1, tzinfo=UTC)
MAX_HOURS = 80_000
"""The hours from BEGIN to 2024. A later hour could be in the future."""

BAD_EVERY = 1000
"""One in this many rows is invalid."""

CHANGED_EVERY = 10
SEED = 4711
LINES_PER_WRITE = 10_000


@dataclass(frozen=True)
class Histories:
    """Price histories of `coins` coins with `hours` rows each, from hour `since`. changed: a later, changed edition."""

    coins: int
    hours: int
    since: int = 0
    changed: bool = False

    def __post_init__(self) -> None:
        if self.since + self.hours > MAX_HOURS:
            raise ValueError(f"{self} exceeds {MAX_HOURS} hours")

    @property
    def rows(self) -> int:
        return self.coins * self.hours

    @property
    def bad(self) -> int:
        return self.rows // BAD_EVERY

    @property
    def good(self) -> int:
        return self.rows - self.bad

    @property
    def changes(self) -> int:
        """Return the number of good rows that the later edition changes."""
        return self.rows // CHANGED_EVERY

    def write(self, path: Path) -> None:
        """Write a file in FILE's format."""
        lines = self._lines()
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(HEADER)
            while part := "".join(islice(lines, LINES_PER_WRITE)):
                file.write(part)

    def _lines(self) -> Iterator[str]:
        times = [f"{BEGIN + timedelta(hours=self.since + hour):%Y-%m-%d %H:%M:%S}" for hour in range(self.hours)]
        number = 0
        for coin in range(self.coins):
            rng = random.Random(f"{SEED} {coin} {self.since}")
            quoted_name = name(coin) if "," not in name(coin) else f'"{name(coin)}"'
            # The first prices are between 1e-9 and 2e4.
            price = 10.0 ** (coin % 14 - 9) * (1 + rng.random())
            for time in times:
                number += 1
                price *= 1 + (rng.random() - 0.5) / 50
                volume = price * rng.randrange(10**6, 10**9)
                if self.changed and number % CHANGED_EVERY == 1:
                    volume += 1
                sums = (f"{volume:.2f}", f"{price * 2e7:.2f}")
                cells = [str(number), quoted_name, symbol(coin), time, *_candle(price), *sums]
                yield ",".join(cells if number % BAD_EVERY else _invalid(cells, number // BAD_EVERY)) + "\n"


def name(coin: int) -> str:
    """Return the coin's name. One in twenty has a comma and must therefore be quoted in CSV."""
    return f"Coin {coin}" if coin % 20 else f"Coin {coin}, Classic"


def symbol(coin: int) -> str:
    return f"C{coin}"


def _candle(price: float) -> list[str]:
    """Return high, low, open and close. The smallest prices are written with an exponent."""
    form = "{:.8e}" if price < 1e-6 else "{:.10f}"
    return [form.format(price * factor) for factor in (1.01, 0.99, 0.999, 1)]


def _invalid(cells: list[str], kind: int) -> list[str]:
    number, quoted_name, symbol, time, high, low, first, close, *rest = cells
    return [
        [number, quoted_name, symbol, time, high, low, first, "n/a", *rest],
        [number, quoted_name, symbol, time, high, low, first, f"-{close}", *rest],
        [number, "", symbol, time, high, low, first, close, *rest],
        [number, quoted_name, symbol, "not a date", high, low, first, close, *rest],
        cells[:-2],
    ][kind % 5]
