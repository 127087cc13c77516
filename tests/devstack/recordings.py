"""Read the recordings of sample_data as of a given time."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from devstack.price_walk import walk_coingecko, walk_coinpaprika
from devstack.recorded_upstreams import Recording

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "sample_data"
NOON = 1_900_000_800  # Unix time. The first step of an hour.


def read_recording(name: str, seed: int = 1) -> Recording:
    file, walk = {
        "coinpaprika": ("coinpaprika/tickers.json", walk_coinpaprika),
        "coingecko": ("coingecko/markets.json", walk_coingecko),
    }[name]
    return Recording.read(FOLDER / file, walk, seed)


def records_at(name: str, moment: int, seed: int = 1) -> list[dict[str, Any]]:
    return [json.loads(record, parse_float=Decimal) for record in read_recording(name, seed).at(moment)]
