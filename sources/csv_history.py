"""Price histories from CSV files, in the formats their makers give them. One id a coin, whichever file it is in.

A quote stands at the time that its row states. A daily row that names no more than its day stands at the day's 00:00
UTC, where its price is the day's last one.
"""

from __future__ import annotations

from datetime import timedelta

from sources.csv import source as csv_files
from sources.csv.fileset import FileSet

CANDLE = {"open": "open", "high": "high", "low": "low", "price": "close"}


def coin(symbol: str, name: str, quote_currency: str = "USD") -> dict[str, str]:
    return {"source_asset_id": name, "symbol": symbol, "name": name, "quote_currency": quote_currency}


def binance_daily(symbol: str, name: str) -> FileSet:
    """CryptoDataDownload's: a banner first; the time is the candle's beginning."""
    return FileSet(
        pattern=f"exchange/Binance_{symbol}USDT_d.csv",
        skip_lines=1,
        columns={**CANDLE, "observed_at": "unix", "volume_24h": "Volume USDT"},
        constants=coin(symbol, name, "USDT"),
        times=("epoch_ms",),
    )


source = csv_files.source(
    "csv_history",
    every=timedelta(minutes=15),
    files=(
        FileSet(
            pattern="coin_history/coin_*.csv",
            columns={
                "source_asset_id": "Name",
                "symbol": "Symbol",
                "name": "Name",
                "observed_at": "Date",
                "price": "Close",
                "open": "Open",
                "high": "High",
                "low": "Low",
                "volume_24h": "Volume",
                "market_cap": "Marketcap",
            },
            constants={"quote_currency": "USD"},
            nulls=("", "null"),
        ),
        binance_daily("BTC", "Bitcoin"),
        binance_daily("ADA", "Cardano"),
        FileSet(
            pattern="zilliqa_prices.csv",
            delimiter=";",
            decimal=",",
            columns={
                "observed_at": "timeClose",
                "price": "priceClose",
                "open": "priceOpen",
                "high": "priceHigh",
                "low": "priceLow",
                "volume_24h": "volume",
            },
            constants=coin("ZIL", "Zilliqa"),
            times=("epoch_ms",),
        ),
        FileSet(
            # Investing.com counts the volume in coins; a quote's is money.
            pattern="investing/Holo Historical Data.csv",
            columns={
                "observed_at": "Date",
                "price": "Price",
                "open": "Open",
                "high": "High",
                "low": "Low",
                "change_24h_pct": "Change %",
            },
            constants=coin("HOT", "Holo"),
            nulls=("", "null", "-"),
            times=("%b %d, %Y",),
        ),
        FileSet(
            pattern="cardano_*_daily.csv",
            columns={
                "source_asset_id": "coin_name",
                "symbol": "coin_symbol",
                "name": "coin_name",
                "observed_at": "date",
            },
            currencies={"USD": {"price": "price_usd"}, "EUR": {"price": "price_eur"}, "CHF": {"price": "price_chf"}},
            times=("%d-%m-%Y",),
        ),
        FileSet(
            # The close stands before the high and the low. A minute's volume is not a day's.
            pattern="minutes/LTCUSD_1m.csv",
            header=("time", "open", "close", "high", "low", "volume"),
            columns={**CANDLE, "observed_at": "time"},
            constants=coin("LTC", "Litecoin"),
            times=("epoch_ms",),
        ),
    ),
)
