"""Map an item with its source's `normalize`, and turn every failure into a reject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

from sources.contract import Item, Reject, Source
from sources.faults import author_line, definition_line, name_hint


def map_item(source: Source, item: Item) -> Mapping[str, Any]:
    """Return the fields of an item, as mapped by its source. Raise Reject if the mapping rejects the item or fails."""
    try:
        fields = source.normalize(item)
    except (Reject, SoftTimeLimitExceeded):
        raise
    except Exception as error:
        line = author_line(error, source)
        detail = f"{_describe(error)}{f' ({line})' if line else ''}{name_hint(error, item)}"
        raise Reject("", "unmappable", f"the mapping of {source.name} failed: {detail}") from error
    if not isinstance(fields, Mapping):
        raise Reject(
            "",
            "unmappable",
            f"the mapping of {source.name} returned {type(fields).__name__}, expected a mapping of fields "
            f"({definition_line(source.normalize)})",
        )
    return fields


def _describe(error: Exception) -> str:
    try:
        return ascii(error)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001 — an error's own __repr__ can fail, too
        return type(error).__name__
