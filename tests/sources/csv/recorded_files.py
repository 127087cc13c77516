"""Declare the recorded and synthetic CSV files, with the expected results of their rows."""

from __future__ import annotations

from typing import Any

from sources.csv.fileset import SUFFIXES, FileSet
from tests.data import csv_files
from tests.data.csv_files import CANDLE, IN_USD, Expected, coin
from tests.recordings import REAL, SYNTHETIC

HATHIX: dict[str, Any] = {
    "columns": {
        "source_asset_id": "coinId",
        "symbol": "coinId",
        "name": "coinId",
        "observed_at": "timestamp",
        "price": "price",
        "market_cap": "marketCap",
        "volume_24h": "totalVolume",
    },
    "constants": IN_USD,
    "times": ("epoch_ms",),
}

FILES = (
    Expected(
        FileSet(
            pattern="bitfinex_LTCUSD_2013_1m.headerless.csv",
            header=("time", "open", "close", "high", "low", "volume"),
            columns={**CANDLE, "observed_at": "time"},
            constants=coin("litecoin", "LTC", "Litecoin"),
            times=("epoch_ms",),
        ),
        quotes=18645,
        first="litecoin USD 2013-05-19T15:23:00 3.1491",
    ),
    Expected(
        FileSet(
            pattern="cdd_Binance_ADAUSDT_d.banner.csv",
            skip_lines=1,
            columns={**CANDLE, "observed_at": "unix", "volume_24h": "Volume USDT"},
            constants=coin("cardano", "ADA", "Cardano", "USDT"),
            times=("epoch_ms",),
        ),
        quotes=1165,
        first="cardano USDT 2021-06-24T00:00:00 1.24850000",
    ),
    Expected(
        FileSet(
            pattern="coingecko_export_ada-usd-max.csv",
            columns={
                "observed_at": "snapped_at",
                "price": "price",
                "market_cap": "market_cap",
                "volume_24h": "total_volume",
            },
            constants=coin("cardano", "ADA", "Cardano"),
            times=("%Y-%m-%d %H:%M:%S UTC",),
        ),
        quotes=1201,
        first="cardano USD 2017-10-18T00:00:00 0.02684535467621909",
    ),
    Expected(
        FileSet(
            pattern="coinmetrics_xaut.csv",
            columns={"observed_at": "time", "price": "PriceUSD", "market_cap": "CapMrktCurUSD"},
            constants=coin("xaut", "XAUT", "Tether Gold"),
        ),
        quotes=514,
        rejects={"no_price": 47},
        first="xaut USD 2020-02-24T00:00:00 1654.63350420118",
    ),
    Expected(
        FileSet(
            pattern="empty_0_bytes.csv",
            columns={"observed_at": "time", "price": "price"},
            constants=coin("none", "NONE", "None"),
        ),
        quotes=0,
    ),
    *(
        Expected(
            FileSet(pattern=f"hathix_perday_{day}.csv", **HATHIX), quotes, blank=blank, first=f"bitcoin USD {first}"
        )
        for day, quotes, blank, first in (
            ("1640736000000", 2450, 45, "2021-12-29T00:00:00 47725.14804631933"),
            ("1640822400000", 2441, 54, "2021-12-30T00:00:00 46506.99464767938"),
            ("1640908800000", 2434, 61, "2021-12-31T00:00:00 47191.86838983951"),
        )
    ),
    Expected(
        FileSet(
            pattern="investing_en_Holo.bom.csv",
            complete=True,  # without a final line end
            columns={
                "observed_at": "Date",
                "price": "Price",
                "open": "Open",
                "high": "High",
                "low": "Low",
                "volume_24h": "Vol.",
                "change_24h_pct": "Change %",
            },
            constants=coin("holo", "HOT", "Holo"),
            suffixes=SUFFIXES,
            times=("%b %d, %Y",),
        ),
        quotes=366,
        first="holo USD 2021-07-01T00:00:00 0.005877",
    ),
    Expected(
        FileSet(
            pattern="kaggle_coin_Dogecoin.csv",
            columns={
                "source_asset_id": "Name",
                "symbol": "Symbol",
                "name": "Name",
                "observed_at": "Date",
                "open": "Open",
                "high": "High",
                "low": "Low",
                "price": "Close",
                "volume_24h": "Volume",
                "market_cap": "Marketcap",
            },
            constants=IN_USD,
        ),
        quotes=2760,
        first="Dogecoin USD 2013-12-16T23:59:59 0.00020473099721129984",
    ),
    Expected(
        FileSet(
            pattern="p17o_terra-luna_2025.csv",
            columns={
                "source_asset_id": "coingecko_coin_id",
                "symbol": "coin_symbol",
                "name": "coin_name",
                "observed_at": "date",
            },
            currencies={"USD": {"price": "price_usd"}, "EUR": {"price": "price_eur"}, "CHF": {"price": "price_chf"}},
            times=("%d-%m-%Y",),
        ),
        quotes=735,
        first="terra-luna USD 2025-01-01T00:00:00 0.00010792966015175244",
    ),
    Expected(
        FileSet(
            pattern="yahoo_BTC-USD.nulls.csv",
            complete=True,  # without a final line end
            columns={
                "observed_at": "Date",
                "open": "Open",
                "high": "High",
                "low": "Low",
                "price": "Close",
                "volume_24h": "Volume",
            },
            constants=coin("bitcoin", "BTC", "Bitcoin"),
            nulls=("", "null"),
        ),
        quotes=363,
        rejects={"no_price": 3},
        first="bitcoin USD 2020-05-03T00:00:00 8897.468750",
    ),
    Expected(
        FileSet(
            pattern="zilliqa_decimal_comma.csv",
            delimiter=";",
            decimal=",",
            columns={
                "observed_at": "timeClose",
                "open": "priceOpen",
                "high": "priceHigh",
                "low": "priceLow",
                "price": "priceClose",
                "volume_24h": "volume",
            },
            constants=coin("zilliqa", "ZIL", "Zilliqa"),
            times=("epoch_ms",),
        ),
        quotes=396,
        rejects={"not_positive": 3},
        first="zilliqa USD 2025-09-08T11:59:59 0.0113403180528829",
    ),
    Expected(
        FileSet(
            pattern="siblings/Paper_Bag_dev_coins.csv",
            columns={
                "source_asset_id": "id",
                "symbol": "symbol",
                "name": "name",
                "observed_at": "last_updated",
                "price": "price",
                "market_cap": "market_cap",
                "volume_24h": "volume_24h",
            },
            constants=IN_USD,
        ),
        quotes=1,
        first="btc-bitcoin USD 2025-12-09T13:32:27 90788",
    ),
    Expected(
        FileSet(
            pattern="siblings/R1ssh1_crypto_data.csv",
            columns={
                "source_asset_id": "id",
                "symbol": "symbol",
                "name": "name",
                "observed_at": "timestamp",
                "price": "price",
                "market_cap": "market_cap",
                "volume_24h": "volume_24h",
                "change_24h_pct": "price_change_24h",
            },
            constants=IN_USD,
        ),
        quotes=10,
        first="bitcoin USD 2024-01-15T10:30:00 43250.50",
    ),
    Expected(
        FileSet(
            pattern="siblings/Rajveerjagtap_crypto_data.csv",
            columns={
                "source_asset_id": "ticker",
                "symbol": "ticker",
                "name": "ticker",
                "observed_at": "date",
                "price": "price",
                "market_cap": "market_cap",
                "volume_24h": "vol",
            },
            constants=IN_USD,
        ),
        quotes=10,
        first="BTC USD 2024-01-15T00:00:00 45000.50",
    ),
    Expected(
        FileSet(
            pattern="siblings/SKV_io_495_crypto_sample.csv",
            columns={
                "source_asset_id": "symbol",
                "symbol": "symbol",
                "name": "symbol",
                "observed_at": "date",
                "price": "price",
            },
            constants=IN_USD,
        ),
        quotes=5,
        first="BTC USD 2025-12-11T10:00:00 45000.50",
    ),
)


CSV_FILES = {SYNTHETIC: csv_files.SYNTHETIC, REAL: FILES}
