"""Create items with changed fields, and read the stored changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from tests.tasks.conftest import Bench
from tests.upstreams import item

COINS = 5

KIND = {"rename": "renamed", "remove": "vanished", "retype": "retyped", "add": "new"}
"""The kind of each change that `page` can make."""


def mapped(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Map an item field by field. The mapping reads `rank`, although the items have no rank at first."""
    return {
        **{name: fields.get(name) for name in ("source_asset_id", "symbol", "name", "quote_currency", "observed_at")},
        "price": fields.get("price"),
        "market_cap": fields.get("market_cap"),
        "rank": fields.get("rank"),
    }


def coin(number: int, minute: int = 0, **edits: Any) -> dict[str, Any]:
    changed = item(number, price=f"{number + 1}.5", observed_at=f"2026-01-01T00:{minute:02d}:00+00:00")
    return {**changed, "market_cap": 1000 + number, **edits}


def page(minute: int, change: str) -> list[dict[str, Any]]:
    """Return the items of a minute with one change: `market_cap` is changed, or a field is added."""
    coins = [coin(number, minute) for number in range(COINS)]
    for fields in coins:
        if change == "rename":
            fields["marketCap"] = fields.pop("market_cap")
        elif change == "remove":
            del fields["market_cap"]
        elif change == "retype":
            fields["market_cap"] = [fields["market_cap"]]
        elif change == "add":
            fields["all_time_high"] = 7
    return coins


def stored_changes(bench: Bench) -> list[RowMapping]:
    return bench.rows("SELECT * FROM drift ORDER BY id")
