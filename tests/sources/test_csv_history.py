"""Test that the declared formats match the sample files of the project."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sources.csv_history import source
from tests.sources.csv_folder import NOW, Folder, Outcome

SAMPLES = Path(__file__).parent.parent.parent / "sample_data" / "csv"


@pytest.fixture(scope="module")
def files() -> dict[str, Outcome]:
    """Return the outcome of each sample file."""
    folder = Folder(SAMPLES)
    folder.source = source
    return {file: folder.validate(folder.scan(file)) for file in folder.partitions()}


def test_every_sample_file_matches_a_file_set(files: dict[str, Outcome]) -> None:
    assert set(files) == {path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*.csv")}


def test_every_sample_file_gives_quotes(files: dict[str, Outcome]) -> None:
    assert {file: len(outcome.quotes) for file, outcome in files.items()} == {
        "cardano_2025_daily.csv": 909,
        "coin_history/coin_Bitcoin.csv": 640,
        "coin_history/coin_Dogecoin.csv": 640,
        "coin_history/coin_Ethereum.csv": 637,
        "exchange/Binance_ADAUSDT_d.csv": 480,
        "exchange/Binance_BTCUSDT_d.csv": 480,
        "investing/Holo Historical Data.csv": 418,
        "minutes/LTCUSD_1m.csv": 700,
        "zilliqa_prices.csv": 400,
    }


def test_the_invalid_rows_of_the_samples_are_rejected_with_their_reasons(files: dict[str, Outcome]) -> None:
    rejects = Counter(
        (file, reason["field"], reason["code"])
        for file, outcome in files.items()
        for _, reject in outcome.rejects
        for reason in reject.reasons
    )
    assert rejects == {
        ("coin_history/coin_Ethereum.csv", "observed_at", "not_a_time"): 1,
        ("coin_history/coin_Ethereum.csv", "price", "no_price"): 1,
        ("coin_history/coin_Ethereum.csv", "row", "ragged"): 1,
        ("investing/Holo Historical Data.csv", "observed_at", "not_a_time"): 1,
        ("investing/Holo Historical Data.csv", "price", "no_price"): 1,
    }
    assert {file for file, outcome in files.items() if outcome.blank} == {"coin_history/coin_Ethereum.csv"}


def test_a_coin_has_one_id_and_no_two_quotes_at_the_same_time(files: dict[str, Outcome]) -> None:
    quotes = [quote for outcome in files.values() for quote in outcome.quotes]
    coins = {(quote.source_asset_id, quote.symbol.upper(), quote.name) for quote in quotes}
    assert coins == {
        (name, symbol, name)
        for name, symbol in {
            "Bitcoin": "BTC",
            "Cardano": "ADA",
            "Dogecoin": "DOGE",
            "Ethereum": "ETH",
            "Holo": "HOT",
            "Litecoin": "LTC",
            "Zilliqa": "ZIL",
        }.items()
    }
    keys = [(quote.source_asset_id, quote.quote_currency, quote.observed_at) for quote in quotes]
    assert len(set(keys)) == len(keys)


def test_a_quote_is_observed_at_the_time_in_its_row(files: dict[str, Outcome]) -> None:
    first = {file: outcome.quotes[0].observed_at for file, outcome in files.items()}
    assert first == {
        "cardano_2025_daily.csv": datetime(2025, 1, 1, tzinfo=UTC),
        "coin_history/coin_Bitcoin.csv": datetime(2024, 1, 1, 23, 59, 59, tzinfo=UTC),
        "coin_history/coin_Dogecoin.csv": datetime(2024, 1, 1, 23, 59, 59, tzinfo=UTC),
        "coin_history/coin_Ethereum.csv": datetime(2024, 1, 1, 23, 59, 59, tzinfo=UTC),
        "exchange/Binance_ADAUSDT_d.csv": datetime(2025, 10, 23, tzinfo=UTC),
        "exchange/Binance_BTCUSDT_d.csv": datetime(2025, 10, 23, tzinfo=UTC),
        "investing/Holo Historical Data.csv": datetime(2025, 10, 25, tzinfo=UTC),
        "minutes/LTCUSD_1m.csv": datetime(2025, 10, 27, 6, 0, tzinfo=UTC),
        "zilliqa_prices.csv": datetime(2025, 11, 4, 23, 59, 59, 999000, tzinfo=UTC),
    }
    assert all(quote.observed_at < NOW for outcome in files.values() for quote in outcome.quotes)


def test_the_close_column_is_the_price_in_any_column_order(files: dict[str, Outcome]) -> None:
    quote = files["minutes/LTCUSD_1m.csv"].quotes[1]
    assert [str(value) for value in (quote.open, quote.price, quote.high, quote.low)] == [
        "97.388",
        "97.375",
        "97.396",
        "97.313",
    ]
