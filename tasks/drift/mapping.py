"""Map an item with its source's `normalize`, and turn every failure of that into a reject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

from sources.contract import Item, Reject, Source


def map_item(source: Source, item: Item) -> Mapping[str, Any]:
    """What the source makes of an item; raises Reject where it cannot."""
    try:
        fields = source.normalize(item)
    except (Reject, SoftTimeLimitExceeded):
        raise
    except Exception as error:
        raise Reject("", "unmappable", f"the mapping of {source.name} failed: {_spelled(error)}") from error
    if not isinstance(fields, Mapping):
        raise Reject("", "unmappable", f"the mapping of {source.name} gave no fields, but {type(fields).__name__}")
    return fields


def _spelled(error: Exception) -> str:
    try:
        return ascii(error)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001 — what it holds may have no spelling, or a wrong one of its own
        return type(error).__name__
