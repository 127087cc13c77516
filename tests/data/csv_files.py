"""Invent CSV files, one for each oddity of real price files, and declare the expected results of their rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sources.csv.fileset import SUFFIXES, FileSet

ROWS = 40
FROM = datetime(2024, 2, 1, tzinfo=UTC)

CANDLE = {"open": "open", "high": "high", "low": "low", "price": "close"}
IN_USD = {"quote_currency": "USD"}


@dataclass(frozen=True)
class Expected:
    """A file's declaration, and the expected numbers of quotes, rejects by reason, and blank rows."""

    declared: FileSet
    quotes: int
    rejects: dict[str, int] = field(default_factory=dict)
    blank: int = 0
    first: str | None = None
    """`id currency time price` of the first quote."""

    @property
    def name(self) -> str:
        return self.declared.pattern


def coin(id_: str, symbol: str, name: str, currency: str = "USD", **more: Any) -> dict[str, Any]:
    return {"source_asset_id": id_, "symbol": symbol, "name": name, "quote_currency": currency, **more}


KESTRELON = coin("kestrelon", "KST", "Kestrelon")
DAILY = {"observed_at": "time", "price": "price"}


@dataclass(frozen=True)
class Quirk:
    """The content of a file, and the expected results."""

    body: bytes
    expected: Expected


def _quirk(
    name: str, lines: list[str], *, encoding: str = "utf-8", newline: str = "\n", **expected: Any
) -> Callable[..., Quirk]:
    """Return a function that builds a Quirk from the file's declaration."""
    body = "".join(line + newline for line in lines).encode(encoding)

    def build(**declaration: Any) -> Quirk:
        declaration = {"pattern": name, "constants": KESTRELON, "columns": DAILY, **declaration}
        return Quirk(body, Expected(FileSet(**declaration), **{"quotes": ROWS, **expected}))

    return build


def _days() -> Iterator[tuple[datetime, random.Random]]:
    """Yield the day of each row, and a random number generator for the row's values."""
    for number in range(ROWS):
        yield FROM + timedelta(days=number), random.Random(f"csv {number}")


def _candle(rng: random.Random) -> tuple[str, str, str, str]:
    """Return open, high, low and close."""
    low, opened, close, high = sorted(rng.uniform(0.9, 1.1) for _ in range(4))
    return f"{opened:.8f}", f"{high:.8f}", f"{low:.8f}", f"{close:.8f}"


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _banner() -> Quirk:
    lines = ["https://banner.example/downloads", "unix,date,symbol,open,high,low,close,Volume USDT"]
    lines += [f"{_ms(at)},{at:%Y-%m-%d %H:%M:%S},KST/USDT,{','.join(_candle(rng))},1200.5" for at, rng in _days()]
    return _quirk("banner.csv", lines, first="kestrelon USDT 2024-02-01T00:00:00 1.02382754")(
        skip_lines=1,
        columns={**CANDLE, "observed_at": "unix", "volume_24h": "Volume USDT"},
        constants=coin("kestrelon", "KST", "Kestrelon", "USDT"),
        times=("epoch_ms",),
    )


def _headerless() -> Quirk:
    """Put the close before the high."""
    lines = []
    for at, rng in _days():
        opened, high, low, close = _candle(rng)
        lines.append(f"{_ms(at)},{opened},{close},{high},{low},17")
    return _quirk("headerless.csv", lines, first="kestrelon USD 2024-02-01T00:00:00 1.02382754")(
        header=("time", "open", "close", "high", "low", "volume"),
        columns={**CANDLE, "observed_at": "time"},
        times=("epoch_ms",),
    )


def _byte_order_mark() -> Quirk:
    lines = ['"Date","Price","Vol.","Change %"']
    for number, (at, rng) in enumerate(_days()):
        volume = ("5.58B", "46.88K", "1.2M", "0.9T")[number % 4]
        lines.append(f'"{at:%b %d, %Y}","{rng.uniform(1, 2):.6f}","{volume}","{rng.uniform(-9, 9):.2f}%"')
    return _quirk(
        "byte_order_mark.csv",
        lines,
        encoding="utf-8-sig",
        newline="\r\n",
        first="kestrelon USD 2024-02-01T00:00:00 1.619138",
    )(
        columns={"observed_at": "Date", "price": "Price", "volume_24h": "Vol.", "change_24h_pct": "Change %"},
        suffixes=SUFFIXES,
        times=("%b %d, %Y",),
    )


def _decimal_comma() -> Quirk:
    lines = ["time;price;volume"]
    for number, (at, rng) in enumerate(_days()):
        price = "0,0" if number in (3, 9) else f"{number + 1}.{rng.randrange(100, 1000)},{rng.randrange(10, 100)}"
        lines.append(f"{_ms(at)};{price};{rng.randrange(10, 100)},88K")
    return _quirk(
        "decimal_comma.csv",
        lines,
        newline="\r\n",
        quotes=ROWS - 2,
        rejects={"not_positive": 2},
        first="kestrelon USD 2024-02-01T00:00:00 1733.10",
    )(
        delimiter=";",
        decimal=",",
        thousands=".",
        suffixes=SUFFIXES,
        times=("epoch_ms",),
        columns={**DAILY, "volume_24h": "volume"},
    )


def _latin_1() -> Quirk:
    lines = ["id,name,time,price"]
    lines += [f'kestrelon,Kestrelón,{at:%Y-%m-%d},"{rng.randrange(1, 9)},{number + 100}.50"'
              for number, (at, rng) in enumerate(_days())]  # fmt: skip
    return _quirk("latin_1.csv", lines, encoding="latin-1", first="kestrelon USD 2024-02-01T00:00:00 1100.50")(
        encoding="latin-1",
        thousands=",",
        columns={**DAILY, "source_asset_id": "id", "symbol": "id", "name": "name"},
        constants=IN_USD,
    )


def _utf_16() -> Quirk:
    lines = ["name,time,price", *(f"Kestrelón 😀,{at:%Y-%m-%d},{rng.random() + 1:.5f}" for at, rng in _days())]
    return _quirk("utf_16.csv", lines, encoding="utf-16", first="kestrelon USD 2024-02-01T00:00:00 1.61914")(
        encoding="utf-16",
        columns={**DAILY, "name": "name"},
        constants={"source_asset_id": "kestrelon", "symbol": "KST", **IN_USD},
    )


def _nulls() -> Quirk:
    """Write two prices as the word null, and three rows that consist only of commas."""
    lines = ["time,price,volume"]
    for number, (at, rng) in enumerate(_days()):
        lines.append(f"{at:%Y-%m-%d},{'null' if number in (5, 6) else f'{rng.uniform(1, 2):.6f}'},null")
        if number in (10, 20, 21):
            lines.append(",,")
    return _quirk(
        "nulls.csv",
        lines,
        quotes=ROWS - 2,
        rejects={"no_price": 2},
        blank=3,
        first="kestrelon USD 2024-02-01T00:00:00 1.619138",
    )(nulls=("", "null"), columns={**DAILY, "volume_24h": "volume"})


def _epoch(unit: str, factor: int, price: str, first: str) -> Quirk:
    lines = ["time,price", *(f"{int(at.timestamp() * factor)},{number + 1}{price}" for number, (at, _)
                             in enumerate(_days()))]  # fmt: skip
    name = f"epoch_{unit}.csv"
    return _quirk(name, lines, first=f"kestrelon USD 2024-02-01T00:00:00 {first}")(times=(f"epoch_{unit}",))


def _three_currencies() -> Quirk:
    lines = ["date,coin_id,coin_symbol,price_usd,price_eur,price_chf"]
    for number, (at, rng) in enumerate(_days()):
        prices = f"{rng.random():.17f},{rng.random():.17f},{number + 1}.796742873076524e-05"
        lines.append(f"{at:%d-%m-%Y},kestrelon,kst,{prices}")
    return _quirk(
        "three_currencies.csv",
        lines,
        newline="\r\n",
        quotes=3 * ROWS,
        first="kestrelon USD 2024-02-01T00:00:00 0.61913771931757566",
    )(
        columns={"source_asset_id": "coin_id", "symbol": "coin_symbol", "name": "coin_symbol", "observed_at": "date"},
        constants={},
        currencies={currency: {"price": f"price_{currency.lower()}"} for currency in ("USD", "EUR", "CHF")},
        times=("%d-%m-%Y",),
    )


def _quoted_time() -> Quirk:
    lines = ["time,price"]
    lines += [f'"{at:%m/%d/%Y, %I:%M:%S %p}",{rng.uniform(1, 2):.6f}' for at, rng in _days()]
    return _quirk("quoted_time.csv", lines, first="kestrelon USD 2024-02-01T00:00:00 1.619138")(
        times=("%m/%d/%Y, %I:%M:%S %p",)
    )


def _utc() -> Quirk:
    lines = ["time,price", *(f"{at:%Y-%m-%d %H:%M:%S} UTC,{rng.uniform(1, 2):.6f}" for at, rng in _days())]
    return _quirk("utc.csv", lines, first="kestrelon USD 2024-02-01T00:00:00 1.619138")(
        times=("%Y-%m-%d %H:%M:%S UTC",)
    )


def _wide() -> Quirk:
    """Put the price into the last of 104 columns. The first three rows have no price."""
    lines = [",".join(["time", *(f"Metric{number}" for number in range(102)), "price"])]
    for number, (at, rng) in enumerate(_days()):
        price = "" if number < 3 else f"{rng.uniform(1, 2):.6f}"
        lines.append(f"{at:%Y-%m-%d},{','.join(str(rng.randrange(10)) for _ in range(102))},{price}")
    return _quirk(
        "wide.csv",
        lines,
        quotes=ROWS - 3,
        rejects={"no_price": 3},
        first="kestrelon USD 2024-02-04T00:00:00 1.637004",
    )()


def _repeated_header() -> Quirk:
    lines = ["time,price"]
    for number, (at, rng) in enumerate(_days()):
        lines += ["time,price"] * (number in (15, 30))
        lines.append(f"{at:%Y-%m-%d},{rng.uniform(1, 2):.6f}")
    return _quirk("repeated_header.csv", lines, blank=2, first="kestrelon USD 2024-02-01T00:00:00 1.619138")()


def _quoted_newlines() -> Quirk:
    lines = ["note,time,price"]
    lines += [f'"of the day,\n""{at:%A}""",{at:%Y-%m-%d},{rng.uniform(1, 2):.6f}' for at, rng in _days()]
    return _quirk("quoted_newlines.csv", lines, first="kestrelon USD 2024-02-01T00:00:00 1.619138")()


def _ragged() -> Quirk:
    """Make one row too short and two rows too long."""
    lines = ["time,price,volume"]
    for number, (at, rng) in enumerate(_days()):
        cells = {4: "", 5: ",1,2", 6: ",1,2,3"}.get(number, ",1")
        lines.append(f"{at:%Y-%m-%d},{rng.uniform(1, 2):.6f}{cells}")
    return _quirk(
        "ragged.csv",
        lines,
        quotes=ROWS - 3,
        rejects={"ragged": 3},
        first="kestrelon USD 2024-02-01T00:00:00 1.619138",
    )()


def _nul() -> Quirk:
    lines = ["time,price"]
    for number, (at, rng) in enumerate(_days()):
        lines.append(f"{at:%Y-%m-%d},{rng.uniform(1, 2):.6f}" + "\0" * (number in (8, 12)))
    return _quirk(
        "nul.csv",
        lines,
        quotes=ROWS - 2,
        rejects={"encoding": 2},
        first="kestrelon USD 2024-02-01T00:00:00 1.619138",
    )()


QUIRKS = (
    _banner(),
    _headerless(),
    _byte_order_mark(),
    _decimal_comma(),
    _latin_1(),
    _utf_16(),
    _nulls(),
    _epoch("s", 1, ".25e-05", "0.0000125"),
    _epoch("ms", 1000, ".5E+3", "1.5E+3"),
    _epoch("us", 1_000_000, ".00", "1.00"),
    _three_currencies(),
    _quoted_time(),
    _utc(),
    _wide(),
    _repeated_header(),
    _quoted_newlines(),
    _ragged(),
    _nul(),
    _quirk("header_only.csv", ["time,price"], quotes=0)(),
    _quirk("empty_0_bytes.csv", [], quotes=0)(),
)
SYNTHETIC = tuple(quirk.expected for quirk in QUIRKS)


def files() -> dict[str, bytes]:
    """Return the content of each file by name."""
    return {f"csv/{quirk.expected.name}": quirk.body for quirk in QUIRKS}
