"""Count the values of a page's side fields that were dropped because they are invalid. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sources.record import DroppedValue

MAX_ITEM_CHARS = 500
"""The maximum characters of an example item."""


@dataclass
class DroppedKind:
    """The dropped values of one field with one code. detail, item: of the first of them; the item is JSON."""

    field: str
    code: str
    detail: str
    item: str
    count: int = 1

    def as_json(self, safe: Callable[[str], str]) -> dict[str, Any]:
        """Return the kind as stored in `pages.dropped`. safe: makes a text safe to store."""
        return {
            "field": self.field,
            "code": self.code,
            "count": self.count,
            "detail": safe(self.detail),
            "item": safe(self.item)[:MAX_ITEM_CHARS],
        }


@dataclass
class DroppedValues:
    """The dropped values of a page, by field and code."""

    _kinds: dict[tuple[str, str], DroppedKind] = field(default_factory=dict)

    def add(self, values: Iterable[DroppedValue], text: Callable[[], str]) -> None:
        """Count the dropped values of an item. text: returns the item as text. Called only for a first example."""
        for value in values:
            if kind := self._kinds.get((value.field, value.code)):
                kind.count += 1
            else:
                first = DroppedKind(value.field, value.code, value.detail, text())
                self._kinds[value.field, value.code] = first

    def __len__(self) -> int:
        return sum(kind.count for kind in self._kinds.values())

    def __iter__(self) -> Iterator[DroppedKind]:
        """Yield each kind, the most frequent first."""
        return iter(sorted(self._kinds.values(), key=lambda kind: (-kind.count, kind.field, kind.code)))
