"""Test that every item of a body is accounted for, whatever is in it: items = quotes + rejects + left out, or an error.

The items are counted here from the bytes, without the code of the sources. `LAW_BODIES=10000` tests more bodies.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sources import FileSet, coingecko, coinpaprika
from sources.contract import Page, Source, TerminalError, TransientError
from tasks.pipeline.normalize import normalize_page
from tasks.run_kinds.backfill import with_history
from tests.recordings import SYNTHETIC
from tests.sources.csv_folder import COIN, NOW, Folder

BODIES = int(os.environ.get("LAW_BODIES", "100"))
MAX_ITEMS = 40
SEED = 20261130
LISTING = {"source_asset_id": "bitcoin", "symbol": "btc", "name": "Bitcoin", "quote_currency": "USD"}
ODD_VALUES: tuple[Any, ...] = (
    *(None, "", " ", 0, -1, True, [], {}, [1, 2, 3], {"USD": 1}, "NaN", "1e999", 10**400, "\x00", "\ud800"),
    *(1_700_000_000_000, 86_400_000, "2999-01-01T00:00:00Z", 1.5e308, "USD"),
)


def mutated(value: Any, chance: random.Random) -> Any:
    """Return a copy of a JSON value in which some values are replaced, dropped or doubled."""
    if chance.random() < 0.02:
        return chance.choice(ODD_VALUES)
    if isinstance(value, list):
        items = [mutated(item, chance) for item in value if chance.random() > 0.02]
        return items + [item for item in items if chance.random() < 0.02]
    if isinstance(value, dict):
        return {key: mutated(inner, chance) for key, inner in value.items() if chance.random() > 0.02}
    return value


def damaged(body: bytes, chance: random.Random) -> bytes:
    """Return the body, or in one of five cases the body with a few bytes replaced, cut or repeated."""
    if chance.random() > 0.2:
        return body
    at, length = chance.randrange(len(body) + 1), chance.randrange(1, 9)
    middle = chance.choice([b"", chance.randbytes(length), body[at : at + 2 * length], b'"', b"},{", b"]", b"\xff"])
    return body[:at] + middle + body[at + chance.randrange(length) :]


def tickers(body: Any) -> int:
    """Count an item for each coin and currency. A coin without quotes is one item."""
    return sum(len(quotes) if isinstance(quotes := _member(coin, "quotes"), dict) and quotes else 1 for coin in body)


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def prices(body: Any) -> int:
    return len(body["prices"])


def recording(name: str) -> Any:
    return json.loads(SYNTHETIC.file(name).read_bytes())


CHART = {
    name: [[86_400_000 * day + (0 if day % 3 else 240_000), 1.5 * day] for day in range(16_000, 16_030)]
    for name in ("prices", "market_caps", "total_volumes")
}
TICKS = [{"timestamp": f"2024-01-{day:02}T00:00:00Z", "price": day, "volume_24h": 1} for day in range(1, 30)]
LIVE: dict[str, Any] = {"params": {}}
PAST = {"listing": LISTING}
CASES: dict[str, tuple[Source, dict[str, Any], Any, Callable[[Any], int]]] = {
    "coinpaprika": (coinpaprika.source, LIVE, recording("coinpaprika/tickers*.synthetic.json")[:MAX_ITEMS], tickers),
    "coingecko": (coingecko.source, LIVE, recording("coingecko/markets.p1.synthetic.json")[:MAX_ITEMS], len),
    "coingecko in euros": (
        *(coingecko.source, {"params": {"vs_currency": "eur"}}),
        *(recording("coingecko/markets.p1.synthetic.json")[:MAX_ITEMS], len),
    ),
    "coingecko history": (with_history(coingecko.source), PAST, CHART, prices),
    "coinpaprika history": (with_history(coinpaprika.source), PAST, TICKS, len),
}


@pytest.mark.parametrize("name", CASES)
def test_every_item_of_a_json_body_is_accounted_for(name: str) -> None:
    source, request, original, count = CASES[name]
    chance, loaded = random.Random(f"{SEED} {name}"), 0
    for _ in range(BODIES):
        body = damaged(json.dumps(mutated(original, chance)).encode(), chance)
        page = Page(body, "application/json", request, NOW, None)
        try:
            result = normalize_page(source, page, 0)
        except (TransientError, TerminalError):
            continue
        outcomes = len(result.quotes) + result.deduplicated + result.rejected + result.left_out
        assert outcomes == result.fetched == count(json.loads(body.decode("utf-8-sig", "surrogateescape"))), body
        loaded += len(result.quotes) > 0
    assert loaded > BODIES / 3, "most bodies can be read"


def test_every_line_of_a_csv_file_is_accounted_for(tmp_path: Path) -> None:
    """The files have no quotes, so that each line is a record."""
    columns = {"observed_at": "day", "price": "price", "volume_24h": "volume"}
    files = FileSet(pattern="*.csv", columns=columns, constants=COIN, times=("%Y-%m-%d",), complete=True)
    chance, folder = random.Random(SEED), Folder(tmp_path, files)
    file = tmp_path / "a.csv"
    for _ in range(BODIES // 4):
        lines = [_line(day, chance) for day in range(1, 29)]
        file.write_bytes(b"day,price,volume\n" + b"".join(lines))
        outcome = folder.read("a.csv")
        counted = len(outcome.quotes) + len(outcome.rejects) + outcome.blank
        assert counted == sum(line != b"" for line in lines), b"".join(lines)


def _line(day: int, chance: random.Random) -> bytes:
    line = bytearray(b"2024-01-%02d,%d,%d" % (day, chance.randrange(1, 99), chance.randrange(99)))
    if chance.random() < 0.3:
        at = chance.randrange(len(line) + 1)
        line[at : at + chance.randrange(3)] = bytes(byte for byte in chance.randbytes(3) if byte not in b'"\r\n')
    return b"" if chance.random() < 0.05 else bytes(line) + b"\n" if line else b"\n"
