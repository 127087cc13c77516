"""Recorded records to what they might be by now: prices walk, and all that follows from them. Pure: no clock.

A walk depends on nothing but the seed and the step, and its numbers are spelled as the upstream spells its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from msgspec import Raw, json

# What moves a price: (steps from one turn to the next, share of the whole); a minute's noise, an hour's, a day's trend.
WAVES = ((6, 1), (360, 3), (8640, 6))
CALMEST, WILDEST = Decimal("0.0005"), Decimal("0.05")
MILLION = 1_000_000

Record = dict[str, Raw]
"""A record by its fields, each still spelled as the upstream spelled it: what is not walked is sent on unread."""


def noise(*what: object) -> int:
    """A number from -1,000,000 to 1,000,000 that these words always give, on every machine and Python."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % (2 * MILLION + 1) - MILLION


def ripple(seed: int, name: str, step: int) -> int:
    """Where a walk stands at a step, from -1,000,000 to 1,000,000; near it at the steps around. Whole numbers only."""
    total = 0
    for period, share in WAVES:
        turn, since = divmod(step, period)
        before, after = noise(seed, name, period, turn), noise(seed, name, period, turn + 1)
        total += share * (before * (period - since) + after * since) // period
    return total // sum(share for _, share in WAVES)


def factor(seed: int, symbol: str, step: int, change: Decimal | None) -> Decimal:
    """What a recorded price is to be multiplied with: half the market's walk, half the coin's own.

    A coin that hardly moved in the recording hardly moves now: a stablecoin stays one. Walks go by symbol, so that one
    coin's prices at two upstreams stay side by side.
    """
    moved = abs(change or Decimal(0)) / 100
    swing = min(max(moved, CALMEST), WILDEST)
    return 1 + swing * (ripple(seed, "market", step) + ripple(seed, symbol, step)) / (2 * MILLION)


@dataclass(frozen=True)
class Wire:
    """How an upstream spells its numbers."""

    exponent_below: Decimal
    exponent_digits: int
    percent_places: int
    whole_floats: str

    def spelled(self, value: Decimal, recorded: Raw) -> Raw:
        """A number as this upstream spells it; one that was recorded whole stays whole."""
        shortest = value.normalize()
        if shortest and abs(shortest) < self.exponent_below:
            mantissa = shortest.scaleb(-shortest.adjusted())
            return Raw(f"{mantissa:f}e-{-shortest.adjusted():0{self.exponent_digits}d}".encode())
        text = f"{shortest:f}"
        was_float = not bytes(recorded).lstrip(b"-").isdigit()
        return Raw((text + self.whole_floats if was_float and "." not in text else text).encode())


GO = Wire(exponent_below=Decimal("1e-6"), exponent_digits=1, percent_places=2, whole_floats="")
RUBY = Wire(exponent_below=Decimal("1e-4"), exponent_digits=2, percent_places=5, whole_floats=".0")


def number(record: Mapping[str, Raw], name: str) -> Decimal | None:
    """A field's number; None for what is missing, and for 0, which stands for missing too."""
    text = bytes(record.get(name, b"null"))
    return None if text == b"null" else Decimal(text.decode()) or None


@dataclass(frozen=True)
class Walker:
    """Moves the numbers of one record, each to as many places as were recorded."""

    wire: Wire
    record: Record

    def put(self, name: str, value: Decimal) -> None:
        recorded = self.record[name]
        places = Decimal(1).scaleb(int(Decimal(bytes(recorded).decode()).as_tuple().exponent))
        self.record[name] = self.wire.spelled(value.quantize(places), recorded)

    def scale(self, by: Decimal, *names: str) -> None:
        for name in names:
            if (value := number(self.record, name)) is not None:
                self.put(name, value * by)

    def compound(self, by: Decimal, *names: str) -> None:
        """Percentages since some past moment, now that the value they tell of was multiplied."""
        places = Decimal(1).scaleb(-self.wire.percent_places)
        for name in names:
            if (percent := number(self.record, name)) is not None:
                moved = ((100 + percent) * by - 100).quantize(places)
                self.record[name] = self.wire.spelled(moved, self.record[name])

    def shift(self, by: Decimal, name: str) -> None:
        if (value := number(self.record, name)) is not None:
            self.put(name, value + by)

    def walk_price(self, name: str, by: Decimal) -> Decimal:
        """Moves the price; answers what it was multiplied with after rounding, which all else must agree with."""
        before = number(self.record, name)
        self.scale(by, name)
        after = number(self.record, name)
        return after / before if after and before else Decimal(1)


def walk_coinpaprika(record: Record, seed: int, step: int) -> Record:
    quotes = json.decode(record["quotes"], type=dict[str, Record])
    for quote in quotes.values():
        walker, symbol = Walker(GO, quote), json.decode(record["symbol"], type=str)
        by = walker.walk_price("price", factor(seed, symbol, step, number(quote, "percent_change_24h")))
        walker.scale(by, "market_cap")
        walker.compound(by, *(name for name in quote if name.startswith("percent_")), "market_cap_change_24h")
        volume = factor(seed, f"{symbol} volume", step, Decimal(100))
        walker.scale(volume, "volume_24h")
        walker.compound(volume, "volume_24h_change_24h")
    return {**record, "quotes": Raw(json.encode(quotes))}


def walk_coingecko(record: Record, seed: int, step: int) -> Record:
    record, symbol = dict(record), json.decode(record["symbol"], type=str).upper()
    price, worth = number(record, "current_price"), number(record, "market_cap")
    walker = Walker(RUBY, record)
    by = walker.walk_price("current_price", factor(seed, symbol, step, number(record, "price_change_percentage_24h")))
    walker.scale(by, "market_cap", "fully_diluted_valuation")
    walker.compound(by, "price_change_percentage_24h", "market_cap_change_percentage_24h")
    walker.compound(by, "ath_change_percentage", "atl_change_percentage")
    walker.shift((by - 1) * (price or 0), "price_change_24h")
    walker.shift((by - 1) * (worth or 0), "market_cap_change_24h")
    walker.scale(factor(seed, f"{symbol} volume", step, Decimal(100)), "total_volume")
    now = number(record, "current_price")
    for name, outer in (("high_24h", max), ("low_24h", min)):
        bound = number(record, name)
        if now is not None and bound is not None and outer(now, bound) != bound:
            record[name] = record["current_price"]
    return record
