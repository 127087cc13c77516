"""Price histories as CSV files, the same on every machine: coins one after the other, each hour by hour."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

FILE = "coin_history/coin_bench.csv"
"""Below CSV_DIR, in a format that sources/csv_history.py declares."""

HEADER = "SNo,Name,Symbol,Date,High,Low,Open,Close,Volume,Marketcap\n"
BEGIN = datetime(2015, 1, 1, tzinfo=UTC)
HOURS_IN_YEARS = 80_000
"""From BEGIN to 2024. An hour beyond could be in the future."""

BAD_EVERY = 1000
"""One row in so many cannot become a quote."""

CHANGED_EVERY = 10
SEED = 4711
LINES_AT_ONCE = 10_000


@dataclass(frozen=True)
class Histories:
    """Of `coins` coins, `hours` rows each, from the hour `since` on. changed: the later edition, with other rows."""

    coins: int
    hours: int
    since: int = 0
    changed: bool = False

    def __post_init__(self) -> None:
        if self.since + self.hours > HOURS_IN_YEARS:
            raise ValueError(f"{self} goes beyond {HOURS_IN_YEARS} hours")

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
        """How many of the good rows are other in the later edition."""
        return self.rows // CHANGED_EVERY

    def write(self, path: Path) -> None:
        """As a file of FILE's format."""
        lines = self._lines()
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(HEADER)
            while part := "".join(islice(lines, LINES_AT_ONCE)):
                file.write(part)

    def _lines(self) -> Iterator[str]:
        times = [f"{BEGIN + timedelta(hours=self.since + hour):%Y-%m-%d %H:%M:%S}" for hour in range(self.hours)]
        number = 0
        for coin in range(self.coins):
            chance = random.Random(f"{SEED} {coin} {self.since}")
            named = name(coin) if "," not in name(coin) else f'"{name(coin)}"'
            # From 1e-9 to 1e4 a coin.
            price = 10.0 ** (coin % 14 - 9) * (1 + chance.random())
            for at in times:
                number += 1
                price *= 1 + (chance.random() - 0.5) / 50
                volume = price * chance.randrange(10**6, 10**9)
                if self.changed and number % CHANGED_EVERY == 1:
                    volume += 1
                sums = (f"{volume:.2f}", f"{price * 2e7:.2f}")
                cells = [str(number), named, symbol(coin), at, *_candle(price), *sums]
                yield ",".join(cells if number % BAD_EVERY else _spoiled(cells, number // BAD_EVERY)) + "\n"


def name(coin: int) -> str:
    """One in twenty has a comma, and stands in quotes for it."""
    return f"Coin {coin}" if coin % 20 else f"Coin {coin}, Classic"


def symbol(coin: int) -> str:
    return f"C{coin}"


def _candle(price: float) -> list[str]:
    """High, low, open and close. The smallest are written with an exponent."""
    form = "{:.8e}" if price < 1e-6 else "{:.10f}"
    return [form.format(price * factor) for factor in (1.01, 0.99, 0.999, 1)]


def _spoiled(cells: list[str], which: int) -> list[str]:
    number, named, short, at, high, low, first, close, *rest = cells
    return [
        [number, named, short, at, high, low, first, "n/a", *rest],
        [number, named, short, at, high, low, first, f"-{close}", *rest],
        [number, named, short, at, low, high, first, close, *rest],
        [number, named, short, "not a date", high, low, first, close, *rest],
        cells[:-2],
    ][which % 5]
