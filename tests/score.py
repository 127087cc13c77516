"""Measure how well the listings of two sources are matched: `python -m tests.score`, or `make score`.

The input is a folder with CoinPaprika's coin list, CoinGecko's coin list, and `pairs.csv`, which names the correct
matches of some coins. The default folder contains invented data (tests/data). Set IDENTITY_DATA to a folder of real
lists. The service's own code matches the lists in a new database.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine, text

from sources.record_columns import ListingFields
from store.engine import make_engine
from tasks.identity.rematch import rematch_assets
from tasks.identity.resolver import ListingResolver
from tests.data.content import DATA
from tests.servers import MigratedPostgres

FOLDER = DATA / "identity"
REPORT = Path("build/score.json")
PAGE_ROWS = 250


@dataclass(frozen=True)
class Score:
    """How well the labeled coins were matched. Each value is a share from 0 to 1.

    recall_renamed: the recall of coins whose names differ.
    """

    precision: float
    recall: float
    recall_renamed: float
    traps_accepted_share: float
    """The share of matched pairs among the labeled pairs of two different coins."""


def main() -> int:
    override = os.environ.get("IDENTITY_DATA")
    folder = Path(override or FOLDER)
    if not (folder / "pairs.csv").is_file():
        sys.stderr.write(f"{folder} has no pairs.csv. Set IDENTITY_DATA to a folder that has one.\n")
        return 2
    pairs, matches = match_folder(folder)
    score = rate(pairs, matches)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(asdict(score), indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(pairs)} pairs of {folder} ({'from IDENTITY_DATA' if override else 'invented'})\n")
    for name, value in asdict(score).items():
        sys.stdout.write(f"{name:<22} {value:.4f}\n")
    for line in mismatches(pairs, matches):
        sys.stdout.write(line + "\n")
    return 0


def match_folder(folder: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Return the labeled pairs of a folder, and the matched CoinGecko id of each CoinPaprika id."""
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    return pairs, match_lists(_only(folder, "coinpaprika_coins.*.json"), _only(folder, "coingecko_list.*.json"))


def _only(folder: Path, pattern: str) -> list[dict[str, Any]]:
    [file] = folder.glob(pattern)
    coins: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return coins


def match_lists(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return, for each CoinPaprika id, the CoinGecko id of the same asset.

    Resolve the coins in the service's order. Inactive coins come last, since CoinPaprika's tickers omit them.
    """
    with TemporaryDirectory(prefix="kasparro-score-") as folder, MigratedPostgres(Path(folder)) as postgres:
        engine = make_engine(postgres.create_database("score"), "score")
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO sources (name) VALUES ('coinpaprika'), ('coingecko')"))
        _resolve(engine, "coinpaprika", (coin for coin in ours if coin["is_active"]))
        _resolve(engine, "coingecko", theirs)
        _resolve(engine, "coinpaprika", (coin for coin in ours if not coin["is_active"]))
        rematch_assets(engine, overrides={})
        with engine.connect() as connection:
            rows = connection.execute(
                text("""
                    SELECT ours.source_asset_id, theirs.source_asset_id
                      FROM listings AS ours JOIN listings AS theirs USING (asset)
                     WHERE ours.source = 'coinpaprika' AND theirs.source = 'coingecko'
                """)
            )
            matches: dict[str, str] = dict(rows.all())
        engine.dispose()
        return matches


def _resolve(engine: Engine, source: str, coins: Iterable[Mapping[str, Any]]) -> None:
    """Resolve coins page by page, in the order of the list."""
    resolver = ListingResolver(engine, source, overrides={})
    listings = [
        ListingFields(coin["id"], coin["symbol"].strip(), coin["name"].strip(), "USD")
        for coin in coins
        if coin["symbol"].strip() and coin["name"].strip()
    ]
    for start in range(0, len(listings), PAGE_ROWS):
        resolver.resolve(listings[start : start + PAGE_ROWS])


def rate(pairs: Sequence[Mapping[str, str]], matches: Mapping[str, str]) -> Score:
    """Score matches against the pairs of pairs.csv. Ignore a match that no pair confirms or refutes."""
    same = {_key(pair) for pair in pairs if pair["label"] == "same"}
    renamed = {_key(pair) for pair in pairs if pair["kind"] == "renamed"}
    traps = {_key(pair) for pair in pairs if pair["label"] == "different" and pair["coingecko_id"]}
    labeled = {ours for ours, _ in same} | {pair["coinpaprika_id"] for pair in pairs if pair["kind"] == "none"}
    decided = {(ours, theirs) for ours, theirs in matches.items() if ours in labeled or (ours, theirs) in traps}
    return Score(
        precision=len(decided & same) / len(decided),
        recall=len(decided & same) / len(same),
        recall_renamed=len(decided & renamed) / len(renamed),
        traps_accepted_share=len(decided & traps) / len(traps),
    )


def mismatches(pairs: Sequence[Mapping[str, str]], matches: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each missing match and for each wrong match."""
    for pair in pairs:
        ours, theirs = _key(pair)
        match = matches.get(ours, "")
        if pair["label"] == "same" and match != theirs:
            yield f"not found ({pair['kind']}): {ours} is {theirs}, not {match or 'nothing'}"
        elif pair["label"] == "different" and match and (match == theirs or pair["kind"] == "none"):
            yield f"accepted ({pair['kind']}): {ours} is not {match}"


def _key(pair: Mapping[str, str]) -> tuple[str, str]:
    return pair["coinpaprika_id"], pair["coingecko_id"]


if __name__ == "__main__":
    sys.exit(main())
