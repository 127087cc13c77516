"""Vary the prices of recorded records over time, and every number that depends on a price.

A price follows a walk that depends only on the seed and the step, never on the clock. Numbers keep the upstream's
format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from msgspec import Raw, json

# A walk is a weighted sum of waves: (period in steps, weight). The periods are a minute, an hour and a day.
WAVES = ((6, 1), (360, 3), (8640, 6))
MIN_SWING, MAX_SWING = Decimal("0.0005"), Decimal("0.05")
MILLION = 1_000_000

Record = dict[str, Raw]
"""The JSON text of each field of a record. Text that does not change is never parsed."""


def noise(*key: object) -> int:
    """Return a pseudorandom number from -1,000,000 to 1,000,000. The same key gives the same number everywhere."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % (2 * MILLION + 1) - MILLION


def walk_position(seed: int, name: str, step: int) -> int:
    """Return a walk's position at a step, from -1,000,000 to 1,000,000. Neighboring steps have similar positions."""
    total = 0
    for period, weight in WAVES:
        turn, offset = divmod(step, period)
        start, end = noise(seed, name, period, turn), noise(seed, name, period, turn + 1)
        total += weight * (start * (period - offset) + end * offset) // period
    return total // sum(weight for _, weight in WAVES)


def factor(seed: int, symbol: str, step: int, change: Decimal | None) -> Decimal:
    """Return the factor for a recorded price. The market's walk and the coin's walk each contribute half of it.

    change: the price's recorded change over 24 hours, in percent. It limits the walk, so that stablecoins stay stable.
    symbol: identifies the coin's walk, so that a coin has similar prices at two upstreams.
    """
    change_ratio = abs(change or Decimal(0)) / 100
    swing = min(max(change_ratio, MIN_SWING), MAX_SWING)
    return 1 + swing * (walk_position(seed, "market", step) + walk_position(seed, symbol, step)) / (2 * MILLION)


@dataclass(frozen=True)
class NumberFormat:
    """The number format of an upstream."""

    exponent_below: Decimal
    exponent_digits: int
    percent_places: int
    whole_float_suffix: str

    def format(self, value: Decimal, recorded: Raw) -> Raw:
        """Return a value in this format, as an integer if the recorded number is an integer."""
        shortest = value.normalize()
        if shortest and abs(shortest) < self.exponent_below:
            mantissa = shortest.scaleb(-shortest.adjusted())
            return Raw(f"{mantissa:f}e-{-shortest.adjusted():0{self.exponent_digits}d}".encode())
        text = f"{shortest:f}"
        was_float = not bytes(recorded).lstrip(b"-").isdigit()
        return Raw((text + self.whole_float_suffix if was_float and "." not in text else text).encode())


GO_FORMAT = NumberFormat(exponent_below=Decimal("1e-6"), exponent_digits=1, percent_places=2, whole_float_suffix="")
RUBY_FORMAT = NumberFormat(exponent_below=Decimal("1e-4"), exponent_digits=2, percent_places=5, whole_float_suffix=".0")


def number(record: Mapping[str, Raw], name: str) -> Decimal | None:
    """Return a field's number, or None if it is missing. CoinPaprika writes a missing number as 0."""
    text = bytes(record.get(name, b"null"))
    return None if text == b"null" else Decimal(text.decode()) or None


@dataclass(frozen=True)
class Walker:
    """A record whose numbers are changed in place. Each number keeps its recorded decimal places."""

    number_format: NumberFormat
    record: Record

    def put(self, name: str, value: Decimal) -> None:
        recorded = self.record[name]
        places = Decimal(1).scaleb(int(Decimal(bytes(recorded).decode()).as_tuple().exponent))
        self.record[name] = self.number_format.format(value.quantize(places), recorded)

    def scale(self, ratio: Decimal, *names: str) -> None:
        for name in names:
            if (value := number(self.record, name)) is not None:
                self.put(name, value * ratio)

    def compound(self, ratio: Decimal, *names: str) -> None:
        """Update the percentage changes of a value that was multiplied by `ratio`."""
        places = Decimal(1).scaleb(-self.number_format.percent_places)
        for name in names:
            if (percent := number(self.record, name)) is not None:
                new_percent = ((100 + percent) * ratio - 100).quantize(places)
                self.record[name] = self.number_format.format(new_percent, self.record[name])

    def shift(self, difference: Decimal, name: str) -> None:
        if (value := number(self.record, name)) is not None:
            self.put(name, value + difference)

    def walk_price(self, name: str, ratio: Decimal) -> Decimal:
        """Multiply the price, and return the ratio after rounding. All other numbers must use that ratio."""
        old_price = number(self.record, name)
        self.scale(ratio, name)
        new_price = number(self.record, name)
        return new_price / old_price if new_price and old_price else Decimal(1)


def walk_coinpaprika(record: Record, seed: int, step: int) -> Record:
    """Return a CoinPaprika ticker with the prices of a step."""
    quotes = json.decode(record["quotes"], type=dict[str, Record])
    for quote in quotes.values():
        walker, symbol = Walker(GO_FORMAT, quote), json.decode(record["symbol"], type=str)
        ratio = walker.walk_price("price", factor(seed, symbol, step, number(quote, "percent_change_24h")))
        walker.scale(ratio, "market_cap")
        walker.compound(ratio, *(name for name in quote if name.startswith("percent_")), "market_cap_change_24h")
        volume = factor(seed, f"{symbol} volume", step, Decimal(100))
        walker.scale(volume, "volume_24h")
        walker.compound(volume, "volume_24h_change_24h")
    return {**record, "quotes": Raw(json.encode(quotes))}


def walk_coingecko(record: Record, seed: int, step: int) -> Record:
    """Return a CoinGecko market with the prices of a step."""
    record, symbol = dict(record), json.decode(record["symbol"], type=str).upper()
    price, market_cap = number(record, "current_price"), number(record, "market_cap")
    walker = Walker(RUBY_FORMAT, record)
    price_factor = factor(seed, symbol, step, number(record, "price_change_percentage_24h"))
    ratio = walker.walk_price("current_price", price_factor)
    walker.scale(ratio, "market_cap", "fully_diluted_valuation")
    walker.compound(ratio, "price_change_percentage_24h", "market_cap_change_percentage_24h")
    walker.compound(ratio, "ath_change_percentage", "atl_change_percentage")
    walker.shift((ratio - 1) * (price or 0), "price_change_24h")
    walker.shift((ratio - 1) * (market_cap or 0), "market_cap_change_24h")
    walker.scale(factor(seed, f"{symbol} volume", step, Decimal(100)), "total_volume")
    new_price = number(record, "current_price")
    for name, extreme in (("high_24h", max), ("low_24h", min)):
        bound = number(record, name)
        if new_price is not None and bound is not None and extreme(new_price, bound) != bound:
            record[name] = record["current_price"]
    return record
