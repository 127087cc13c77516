"""Measure how well the listings of two sources are matched: `python -m tests.score`, or `make score`.

The input is a folder with a coin list of CoinPaprika, one of CoinGecko, and `pairs.csv`, which says of some coins what
they are in the other list. By default it is invented (tests/data); set IDENTITY_DATA to a folder of real lists.
The service's own code matches the lists, in a new database.
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
PAGE = 250


@dataclass(frozen=True)
class Score:
    """Of the coins whose counterpart, or that they have none, is settled. recall_renamed: where the names differ."""

    precision: float
    recall: float
    recall_renamed: float
    traps_accepted_share: float
    """How many of the pairs that are known to be two things were taken for one."""


def main() -> int:
    chosen = os.environ.get("IDENTITY_DATA")
    folder = Path(chosen or FOLDER)
    if not (folder / "pairs.csv").is_file():
        sys.stderr.write(f"There is no pairs.csv in {folder}; set IDENTITY_DATA to the folder that has it.\n")
        return 2
    pairs, answers = match_folder(folder)
    score = rate(pairs, answers)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(asdict(score), indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(pairs)} pairs of {folder}, {'as IDENTITY_DATA says' if chosen else 'which are invented'}\n")
    for name, value in asdict(score).items():
        sys.stdout.write(f"{name:<22} {value:.4f}\n")
    for line in mistakes(pairs, answers):
        sys.stdout.write(line + "\n")
    return 0


def match_folder(folder: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Return the settled pairs of a folder, and for each CoinPaprika id the CoinGecko id of the same asset."""
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    return pairs, match_lists(_only(folder, "coinpaprika_coins.*.json"), _only(folder, "coingecko_list.*.json"))


def _only(folder: Path, pattern: str) -> list[dict[str, Any]]:
    [file] = folder.glob(pattern)
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def match_lists(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each CoinPaprika id the CoinGecko id that is of the same asset.

    In the order in which the service meets them: CoinPaprika's tickers are of active coins; others come last.
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
            found = connection.execute(
                text("""
                    SELECT ours.source_asset_id, theirs.source_asset_id
                      FROM listings AS ours JOIN listings AS theirs USING (asset)
                     WHERE ours.source = 'coinpaprika' AND theirs.source = 'coingecko'
                """)
            )
            answers: dict[str, str] = dict(found.all())
        engine.dispose()
        return answers


def _resolve(engine: Engine, source: str, coins: Iterable[Mapping[str, Any]]) -> None:
    """A page at a time, as they come from the source."""
    listings = ListingResolver(engine, source, overrides={})
    listed = [
        ListingFields(coin["id"], coin["symbol"].strip(), coin["name"].strip(), "USD")
        for coin in coins
        if coin["symbol"].strip() and coin["name"].strip()
    ]
    for start in range(0, len(listed), PAGE):
        listings.resolve(listed[start : start + PAGE])


def rate(pairs: Sequence[Mapping[str, str]], answers: Mapping[str, str]) -> Score:
    """pairs: as in pairs.csv. An answer that nothing is settled about counts neither way."""
    same = {_key(pair) for pair in pairs if pair["label"] == "same"}
    renamed = {_key(pair) for pair in pairs if pair["kind"] == "renamed"}
    traps = {_key(pair) for pair in pairs if pair["label"] == "different" and pair["coingecko_id"]}
    settled = {ours for ours, _ in same} | {pair["coinpaprika_id"] for pair in pairs if pair["kind"] == "none"}
    given = {(ours, theirs) for ours, theirs in answers.items() if ours in settled or (ours, theirs) in traps}
    return Score(
        precision=len(given & same) / len(given),
        recall=len(given & same) / len(same),
        recall_renamed=len(given & renamed) / len(renamed),
        traps_accepted_share=len(given & traps) / len(traps),
    )


def mistakes(pairs: Sequence[Mapping[str, str]], answers: Mapping[str, str]) -> Iterator[str]:
    """What was not found, and what was found that is not so, a line each."""
    for pair in pairs:
        ours, theirs = _key(pair)
        answer = answers.get(ours, "")
        if pair["label"] == "same" and answer != theirs:
            yield f"not found ({pair['kind']}): {ours} is {theirs}, not {answer or 'nothing'}"
        elif pair["label"] == "different" and answer and (answer == theirs or pair["kind"] == "none"):
            yield f"accepted ({pair['kind']}): {ours} is not {answer}"


def _key(pair: Mapping[str, str]) -> tuple[str, str]:
    return pair["coinpaprika_id"], pair["coingecko_id"]


if __name__ == "__main__":
    sys.exit(main())
