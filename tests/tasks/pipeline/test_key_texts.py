"""Test that the keys of listings are judged by one rule, in JSON and CSV, as columns and row by row."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sources import FileSet, csv_source
from tests.field import field_folder
from tests.sources.csv_folder import Folder, environment
from tests.tasks.conftest import Bench
from tests.upstreams import OBSERVED, canned, item

KEYS = {"source_asset_id": "symbol", "symbol": "symbol", "name": "name"}
ROW = {**KEYS, "observed_at": "time", "price": "price"}
USD = {"quote_currency": "USD"}

DAMAGED = [
    "SPT",
    "\ufeffSPT",
    "S\u200bPT",
    "SPT\u00a0",
    "\u2060SPT\u200e",
    '="SPT"',
    '"SPT"',
    '""SPT""',
    "'SPT",
    "\u201cSPT\u201d",
    "S\u00adPT",
]


def listings(bench: Bench) -> list[tuple[str, str, str, int]]:
    """Return the key fields of each listing, and the number of its quotes."""
    rows = bench.rows(
        """
        SELECT source_asset_id, symbol, name, count(*) FROM listings JOIN quotes ON listing_id = listings.id
         GROUP BY 1, 2, 3 ORDER BY 1
        """
    )
    return [tuple(row.values()) for row in rows]


def files(pattern: str, **changes: Any) -> FileSet:
    return FileSet(**{"pattern": pattern, "columns": ROW, "constants": USD, "complete": True, **changes})


def test_equal_looking_keys_of_a_json_source_are_one_listing(bench: Bench) -> None:
    items = [
        item(
            0, source_asset_id=key, symbol=key, name=f" {key}", observed_at=(OBSERVED + timedelta(hours=at)).isoformat()
        )
        for at, key in enumerate(DAMAGED)
    ]
    run = bench.ingest(canned(items))
    assert run["status"] == "succeeded"
    assert listings(bench) == [("SPT", "SPT", "SPT", len(DAMAGED))]


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_equal_looking_keys_of_a_csv_file_are_one_listing(tmp_path: Path, blank: str) -> None:
    folder = Folder(tmp_path, files("*.csv"))
    quoted = [f'"{key.replace(chr(34), 2 * chr(34))}"' if blank == "" else key for key in DAMAGED]
    lines = [f"2024-07-01T{at:02}:00:00Z,{blank}{key},Space Text,1.5" for at, key in enumerate(quoted)]
    folder.write("a.csv", "\n".join(["time,symbol,name,price", *lines, ""]))
    outcome = folder.read("a.csv")
    assert {(quote.source_asset_id, quote.symbol) for quote in outcome.quotes} == {("SPT", "SPT")}
    assert (len(outcome.quotes), outcome.rejects) == (len(DAMAGED), [])


@pytest.mark.parametrize("char", ["\x01", "\x7f", "\x85", "\ufffd", "\ufffe"])
def test_a_key_with_a_character_that_stands_for_another_is_refused(bench: Bench, tmp_path: Path, char: str) -> None:
    bench.ingest(canned([item(0, symbol=f"S{char}T"), item(1)]))
    assert bench.one("SELECT reasons FROM rejects")[0]["code"] == "encoding"
    folder = Folder(tmp_path, files("*.csv"))
    folder.write(
        "a.csv", f"time,symbol,name,price\n2024-07-01T00:00:00Z,S{char}T,Space,1\n2024-07-01T00:00:00Z,T,T,1\n"
    )
    outcome = folder.read("a.csv")
    assert (dict(outcome.codes), len(outcome.quotes)) == ({"encoding": 2}, 1)


def test_a_currency_is_cleaned_like_other_keys(bench: Bench) -> None:
    bench.ingest(canned([item(0, quote_currency="\ufeffusd"), item(1, quote_currency='="EUR"')]))
    assert {row["quote_currency"] for row in bench.rows("SELECT quote_currency FROM listings")} == {"USD", "EUR"}


def test_composed_and_decomposed_letters_are_one_key(bench: Bench) -> None:
    later = (OBSERVED + timedelta(hours=1)).isoformat()
    one, other = item(0, source_asset_id="caf\u00e9"), item(0, source_asset_id="cafe\u0301", observed_at=later)
    bench.ingest(canned([one, other]))
    assert [(id_, count) for id_, _, _, count in listings(bench)] == [("caf\u00e9", 2)]


def test_ids_that_only_look_unusual_are_kept(bench: Bench) -> None:
    ids = [
        "=A=",
        "BEN&JERRY'",
        "\u2b50\ufe0f",
        "$aapl",
        "0x",
        'LOST ARK NFT "Official"',
        "\u0645\u06cc\u200c\u062e\u0648",
    ]
    bench.ingest(canned([item(0, source_asset_id=id_) for id_ in ids]))
    assert sorted(id_ for id_, *_ in listings(bench)) == sorted(ids)


# The inputs of ../shared/field/key_text_damaged


def test_marks_and_characters_of_no_width_within_a_file_start_no_second_listing(bench: Bench) -> None:
    header = ("symbol", "name", "time", "price")
    source = csv_source("bom_inside", timedelta(days=30), (files("bom_inside.csv", header=header),))
    with environment(CSV_DIR=str(field_folder("key_text_damaged"))):
        run = bench.ingest(source)
    assert run["status"] == "succeeded", run["error_detail"]
    assert listings(bench) == [("BOMX", "BOMX", "Bom Coin", 3)]


def test_quotation_marks_behind_a_blank_start_no_second_listing(bench: Bench) -> None:
    source = csv_source("space_quote", timedelta(days=30), (files("space_quote.csv"),))
    with environment(CSV_DIR=str(field_folder("key_text_damaged"))):
        run = bench.ingest(source)
    assert run["status"] == "succeeded", run["error_detail"]
    assert listings(bench) == [("SPT", "SPT", "Space Text", 2)]
