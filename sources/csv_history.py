"""Read price histories from CSV files, each in the format of its publisher. A coin has the same id in all files.

A quote has the time in its row. If a row has only a date, its quote has the time 00:00 UTC, although the price is the
day's closing price.
"""

from __future__ import annotations

from datetime import timedelta

from sources import FileSet, csv_source

CANDLE = {"open": "open", "high": "high", "low": "low", "price": "close"}


def coin(symbol: str, name: str, quote_currency: str = "USD") -> dict[str, str]:
    """Return the constants of a file with only one coin. The coin's name is also its id."""
    return {"source_asset_id": name, "symbol": symbol, "name": name, "quote_currency": quote_currency}


def binance_daily(symbol: str, name: str) -> FileSet:
    """Return the format of CryptoDataDownload. A banner precedes the header, and a row's time is the start of its
    candle."""
    return FileSet(
        pattern=f"exchange/Binance_{symbol}USDT_d.csv",
        skip_lines=1,
        columns={**CANDLE, "observed_at": "unix", "volume_24h": "Volume USDT"},
        constants=coin(symbol, name, "USDT"),
        times=("epoch_ms",),
    )


source = csv_source(
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
            # Omit the volume: Investing.com states it in coins, but the record requires the quote currency. Its
            # downloads have no line end after the last record.
            pattern="investing/Holo Historical Data.csv",
            complete=True,
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
            # The close comes before the high and the low. Omit the volume, which covers a minute instead of a day.
            pattern="minutes/LTCUSD_1m.csv",
            header=("time", "open", "close", "high", "low", "volume"),
            columns={**CANDLE, "observed_at": "time"},
            constants=coin("LTC", "Litecoin"),
            times=("epoch_ms",),
        ),
    ),
)
