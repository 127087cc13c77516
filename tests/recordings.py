"""Provide the recordings that tests read: invented ones, and real ones if their folder exists."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tests.data import upstreams
from tests.data.content import DATA
from tests.processes import ROOT


@dataclass(frozen=True)
class Recordings:
    """A folder with `coinpaprika`, `coingecko` and `csv`, and the counts that tests expect in its files.

    shared_coin: the slug, CoinGecko id and CoinPaprika id of a coin that both upstreams list.
    """

    name: str
    folder: Path
    tickers: int
    no_market_cap: int
    no_max_supply: int
    markets: int
    shared_coin: tuple[str, str, str]

    def __str__(self) -> str:
        return self.name

    def file(self, pattern: str) -> Path:
        """Return the only matching file that contains a body."""
        [file] = (file for file in self.folder.glob(pattern) if not file.name.endswith(".headers.json"))
        return file

    def response(self, name: str) -> tuple[bytes, int, dict[str, str]]:
        """Return the body, status and headers of a recording. Header names are in lower case."""
        metadata = json.loads((self.folder / f"{name}.headers.json").read_text())
        return self.file(f"{name}.*").read_bytes(), metadata["status"], metadata["headers"]

    @property
    def all_tickers(self) -> Path:
        return self.file("coinpaprika/tickers.full.*.json")

    @property
    def first_markets(self) -> Path:
        return self.file("coingecko/markets.p1.*.json")


SYNTHETIC = Recordings(
    "synthetic",
    DATA / "recordings",
    upstreams.TICKERS,
    upstreams.NO_MARKET_CAP,
    upstreams.NO_MAX_SUPPLY,
    upstreams.MARKETS,
    ("kestrelon", "kestrelon", "kst-kestrelon"),
)
REAL = Recordings(
    "real",
    Path(os.environ.get("REAL_DATA", ROOT.parent / "shared" / "real-data")),
    2541,
    680,
    1998,
    250,
    ("bitcoin", "bitcoin", "btc-bitcoin"),
)
