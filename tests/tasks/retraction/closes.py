"""Declare a source whose files are the whole truth. Worker processes import this module (EXTRA_SOURCES)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sources import FileSet, csv_source
from sources.contract import Source


def truth_source(*, replaces: bool = True, **declaration: Any) -> Source:
    columns = {"source_asset_id": "coin", "symbol": "coin", "name": "coin", "price": "price", "observed_at": "time"}
    fields = {"pattern": "*.csv", "columns": columns, "constants": {"quote_currency": "USD"}, **declaration}
    return csv_source("closes", timedelta(hours=1), [FileSet(**fields)], replaces=replaces)


source = truth_source()
