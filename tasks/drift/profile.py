"""Profile the fields of items: their paths and types, and how often each is present and null. Pure.

A field is named by its path, such as `quotes.USD.price`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

TEXT, NUMERIC_TEXT = "text", "number as text"

MAX_DEPTH = 5
"""The maximum depth of nested objects. A deeper object counts as one value."""

MAX_FIELDS = 500
"""The maximum number of fields in a profile. Without it, an upstream that invents fields could fill a table."""

MAX_COUNTED_ITEMS = 100_000
"""The number of items above which all counts are halved, so that older items have less and less weight."""

NUMBER = re.compile(r"[+-]?[$€]?(\d[\d,.' ]*|\.\d+)([eE][+-]?\d+)?[ ]?[%KMBT]?", re.ASCII)
MAX_NUMBER_CHARS, MAX_PATH_CHARS = 100, 200

NULLS = frozenset(("", "-", "null", "none", "nan", "n/a", "na"))
"""Texts that stand for null in files."""


@dataclass
class FieldStats:
    """The statistics of one field.

    present: the number of items with the field, null or not. types: how often each type occurs, without null.
    magnitude: the decimal logarithm of the median of its numbers; None if no number is other than 0.
    """

    present: int = 0
    null: int = 0
    types: Counter[str] = field(default_factory=Counter)
    magnitude: float | None = None

    @property
    def main_type(self) -> str | None:
        return self.types.most_common(1)[0][0] if self.types else None

    def to_json(self) -> dict[str, Any]:
        return {"present": self.present, "null": self.null, "types": dict(self.types), "size": self.magnitude}

    @classmethod
    def from_json(cls, stats: Mapping[str, Any]) -> FieldStats:
        return cls(stats["present"], stats["null"], Counter(stats["types"]), stats["size"])


@dataclass
class FieldProfile:
    """The statistics of all fields. items: the number of counted items. fields: the statistics by path."""

    items: int = 0
    fields: dict[str, FieldStats] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"items": self.items, "fields": {path: stats.to_json() for path, stats in self.fields.items()}}

    @classmethod
    def from_json(cls, items: int, fields: Mapping[str, Mapping[str, Any]]) -> FieldProfile:
        return cls(items, {path: FieldStats.from_json(stats) for path, stats in fields.items()})

    def add(self, other: FieldProfile) -> None:
        """Add the counts of another profile."""
        for path, added in other.fields.items():
            if path not in self.fields and len(self.fields) >= MAX_FIELDS:
                continue
            stats = self.fields.setdefault(path, FieldStats())
            stats.present += added.present
            stats.null += added.null
            stats.types += added.types
            stats.magnitude = added.magnitude if added.magnitude is not None else stats.magnitude
        self.items += other.items
        if self.items > MAX_COUNTED_ITEMS:
            self._halve()

    def _halve(self) -> None:
        self.items //= 2
        for stats in self.fields.values():
            stats.present, stats.null = stats.present // 2, stats.null // 2
            stats.types = Counter({name: max(1, count // 2) for name, count in stats.types.items()})


def profile_items(items: Sequence[Any]) -> FieldProfile:
    """Return the profile of items. An item that is not an object is ignored."""
    profile, magnitudes = FieldProfile(), dict[str, list[float]]()
    for item in items:
        if not isinstance(item, Mapping):
            continue
        profile.items += 1
        for path, value in leaves(item):
            if path not in profile.fields and len(profile.fields) >= MAX_FIELDS:
                continue
            stats = profile.fields.setdefault(path, FieldStats())
            stats.present += 1
            type_name = type_of(value)
            if type_name is None:
                stats.null += 1
                continue
            stats.types[type_name] += 1
            if "number" in type_name and (magnitude := _magnitude(value)) is not None:
                magnitudes.setdefault(path, []).append(magnitude)
    for path, values in magnitudes.items():
        profile.fields[path].magnitude = round(sorted(values)[len(values) // 2], 3)
    return profile


def leaves(item: Mapping[Any, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each field. For a nested object, yield its fields instead.

    Omit fields whose path is too long or cannot be stored as text.
    """
    for name, value in item.items():
        path = f"{prefix}{name}"
        if len(path) > MAX_PATH_CHARS or "\x00" in path or not _is_utf8(path):
            continue
        if isinstance(value, Mapping) and value and depth < MAX_DEPTH:
            yield from leaves(value, f"{path}.", depth + 1)
        else:
            yield path, value


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def type_of(value: Any) -> str | None:
    """Return the name of a value's type; None for null, and for a text that stands for null."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, str):
        plain = value[: MAX_NUMBER_CHARS + 1].strip()
        if plain.casefold() in NULLS:
            return None
        return NUMERIC_TEXT if len(plain) <= MAX_NUMBER_CHARS and NUMBER.fullmatch(plain) else TEXT
    return "object" if isinstance(value, Mapping) else "list"


def _magnitude(value: Any) -> float | None:
    try:
        number = abs(float(value))
    except (ValueError, OverflowError, TypeError):
        return None
    return math.log10(number) if 0 < number < math.inf else None
