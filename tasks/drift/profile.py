"""The shape of items: which fields they have, of which types, how often null; and how one shape differs from another.

Pure. A field is named by its path: `quotes.USD.price`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from rapidfuzz import fuzz

Kind = Literal["new", "vanished", "renamed", "retyped"]

TEXT, NUMERIC = "text", "number as text"

DEEPEST = 5
MOST_FIELDS = 500
"""Of one shape; an upstream that thinks up new ones for ever fills no table."""

ALWAYS = 0.98
"""The share of the items before that had a field which is said to have vanished from a page."""

RARE, MOSTLY = 0.05, 0.5
"""The share that a type had at most, and has at least in a page whose field is said to be retyped."""

BY_CHANCE = 1e-3
"""What is likelier than that, as things were before, is no change: a page of one item tells little."""

ENOUGH_VALUES = 50

ENOUGH = 0.6
"""The confidence from which on one that vanished and one that is new are one that was renamed."""

NAME_WEIGHT = 0.7
"""Of the confidence in a renaming; the rest is how alike the values are."""

REMEMBERED = 100_000
"""Items whose counts are kept in full; beyond, the past counts for less and less."""

NUMBER = re.compile(r"[+-]?[$€]?(\d[\d,.' ]*|\.\d+)([eE][+-]?\d+)?[ ]?[%KMBT]?", re.ASCII)
LONGEST_NUMBER, LONGEST_NAME = 100, 200

NULLS = frozenset(("", "-", "null", "none", "nan", "n/a", "na"))
"""How files spell that nothing is known."""

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass
class FieldStats:
    """present: in how many items it is, null or not. types: how often each, null not among them.

    size: the median of its numbers, as a power of ten; None where it has none but zero.
    """

    present: int = 0
    null: int = 0
    types: Counter[str] = field(default_factory=Counter)
    size: float | None = None

    @property
    def main_type(self) -> str | None:
        return self.types.most_common(1)[0][0] if self.types else None

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"present": self.present, "null": self.null, "types": dict(self.types), "size": self.size}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> FieldStats:
        return cls(told["present"], told["null"], Counter(told["types"]), told["size"])


@dataclass
class FieldProfile:
    """Of so many items."""

    items: int = 0
    fields: dict[str, FieldStats] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"items": self.items, "fields": {name: each.told() for name, each in self.fields.items()}}

    @classmethod
    def of(cls, items: int, fields: Mapping[str, Mapping[str, Any]]) -> FieldProfile:
        return cls(items, {name: FieldStats.of(told) for name, told in fields.items()})

    def add(self, other: FieldProfile) -> None:
        """Count the items of another in."""
        for name, theirs in other.fields.items():
            if name not in self.fields and len(self.fields) >= MOST_FIELDS:
                continue
            ours = self.fields.setdefault(name, FieldStats())
            ours.present += theirs.present
            ours.null += theirs.null
            ours.types += theirs.types
            ours.size = theirs.size if theirs.size is not None else ours.size
        self.items += other.items
        if self.items > REMEMBERED:
            self.items //= 2
            for each in self.fields.values():
                each.present, each.null = each.present // 2, each.null // 2
                each.types = Counter({name: max(1, count // 2) for name, count in each.types.items()})


class Change(NamedTuple):
    """One difference. became: the name of a field that was renamed, or the type of one that was retyped.

    was: the type that it had. confidence: of a renaming.
    """

    kind: Kind
    field: str
    was: str | None = None
    became: str | None = None
    confidence: float | None = None

    @property
    def key(self) -> tuple[Kind, str, str | None]:
        """What two that say the same have in common."""
        return self.kind, self.field, self.became

    @property
    def new_name(self) -> str | None:
        """Of a field that was not there before."""
        return {"new": self.field, "renamed": self.became}.get(self.kind)

    def __str__(self) -> str:
        if self.kind == "renamed":
            return f"`{self.field}` vanished, `{self.became}` appeared: {self.confidence:.2f}"
        if self.kind == "retyped":
            return f"`{self.field}` was {self.was}, is {self.became}"
        return f"`{self.field}` {'vanished' if self.kind == 'vanished' else 'appeared'}"


def profile_items(items: Sequence[Any]) -> FieldProfile:
    """Of those that are objects; what is none has no fields."""
    shape, sizes = FieldProfile(), dict[str, list[float]]()
    for item in items:
        if not isinstance(item, Mapping):
            continue
        shape.items += 1
        for path, value in leaves(item):
            if path not in shape.fields and len(shape.fields) >= MOST_FIELDS:
                continue
            found = shape.fields.setdefault(path, FieldStats())
            found.present += 1
            kind = type_of(value)
            if kind is None:
                found.null += 1
                continue
            found.types[kind] += 1
            if "number" in kind and (size := _size(value)) is not None:
                sizes.setdefault(path, []).append(size)
    for path, found_sizes in sizes.items():
        shape.fields[path].size = round(sorted(found_sizes)[len(found_sizes) // 2], 3)
    return shape


def leaves(item: Mapping[Any, Any], above: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Each field with its value: of objects in objects, those that are inside. Without names that no table can hold."""
    for name, value in item.items():
        path = f"{above}{name}"
        if len(path) > LONGEST_NAME or "\x00" in path or not _is_text(path):
            continue
        if isinstance(value, Mapping) and value and depth < DEEPEST:
            yield from leaves(value, f"{path}.", depth + 1)
        else:
            yield path, value


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def type_of(value: Any) -> str | None:
    """None for null, and for a text that says as much."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float | Decimal):
        return "number"
    if isinstance(value, str):
        plain = value[: LONGEST_NUMBER + 1].strip()
        if plain.casefold() in NULLS:
            return None
        return NUMERIC if len(plain) <= LONGEST_NUMBER and NUMBER.fullmatch(plain) else TEXT
    return "object" if isinstance(value, Mapping) else "list"


def profile_changes(before: FieldProfile, page: FieldProfile) -> list[Change]:
    """What is otherwise in a page than it was in all that came before; none where the page has no items."""
    if not page.items:
        return []
    vanished = {
        name: theirs
        for name, theirs in before.fields.items()
        if theirs.present >= ALWAYS * before.items
        and name not in page.fields
        and (1 - (theirs.present + 1) / (before.items + 2)) ** page.items < BY_CHANCE
    }
    room = max(0, MOST_FIELDS - len(before.fields))
    new = dict([it for it in page.fields.items() if it[0] not in before.fields][:room])
    renamed = list(_renamed(vanished, new))
    gone, come = {change.field for change in renamed}, {change.became for change in renamed}
    return [
        *renamed,
        *(Change("vanished", name, was=theirs.main_type) for name, theirs in vanished.items() if name not in gone),
        *_retyped(before, page),
        *(Change("new", name, became=ours.main_type) for name, ours in new.items() if name not in come),
    ]


def evolve(before: FieldProfile, page: FieldProfile, accepted: Iterable[Change], *, whole: bool) -> None:
    """Take changes into what came before: from then on they are none. whole: with all that the page's items have."""
    if whole:
        before.add(page)
    for change in accepted:
        if change.new_name:
            before.fields.setdefault(change.new_name, page.fields[change.new_name])
        if change.kind in ("vanished", "renamed"):
            theirs = before.fields[change.field]
            theirs.present = max(0, min(theirs.present, int(ALWAYS * before.items) - 1))
        if change.kind == "retyped":
            types = before.fields[change.field].types
            types[str(change.became)] += max(1, types.total())


def _retyped(before: FieldProfile, page: FieldProfile) -> Iterator[Change]:
    for name, ours in page.fields.items():
        theirs = before.fields.get(name)
        if theirs is None or not theirs.types or not ours.types:
            continue
        known, values = theirs.types.total(), ours.types.total()
        for kind, count in ours.types.items():
            # A text may well be one that looks like a number.
            if (
                count < MOSTLY * values
                or theirs.types[kind] > RARE * known
                or (theirs.main_type, kind) == (TEXT, NUMERIC)
            ):
                continue
            if _at_least(count, values, (theirs.types[kind] + 1) / (known + 2)) < BY_CHANCE:
                yield Change("retyped", name, was=theirs.main_type, became=kind)


def _at_least(count: int, of: int, share: float) -> float:
    """How likely so many or more of them are, where each is with this likelihood."""
    if of > ENOUGH_VALUES:
        return 0.0
    return sum(math.comb(of, each) * share**each * (1 - share) ** (of - each) for each in range(count, of + 1))


def _renamed(vanished: Mapping[str, FieldStats], new: Mapping[str, FieldStats]) -> Iterator[Change]:
    """The surest first, each field once."""
    pairs = sorted(
        (
            (confidence(old, theirs, name, ours), old, name)
            for old, theirs in vanished.items()
            for name, ours in new.items()
        ),
        reverse=True,
    )
    taken: set[tuple[str, str]] = set()
    for sure, old, name in pairs:
        if sure >= ENOUGH and not {("old", old), ("new", name)} & taken:
            taken |= {("old", old), ("new", name)}
            yield Change("renamed", old, was=vanished[old].main_type, became=name, confidence=round(sure, 2))


def confidence(old: str, theirs: FieldStats, name: str, ours: FieldStats) -> float:
    """How surely a field is another one under a new name: by how alike the two names are, and their values."""
    return NAME_WEIGHT * _names_alike(old, name) + (1 - NAME_WEIGHT) * _values_alike(theirs, ours)


def _names_alike(one: str, other: str) -> float:
    words = [" ".join(word.lower() for word in WORD.findall(name)) for name in (one, other)]
    # One that is another with a word more is less surely the same than one that is spelled otherwise.
    return max(fuzz.ratio(*words), 0.9 * fuzz.token_set_ratio(*words)) / 100


def _values_alike(theirs: FieldStats, ours: FieldStats) -> float:
    if theirs.main_type != ours.main_type:
        return 0.0
    if theirs.size is None or ours.size is None:
        return 0.5 if theirs.main_type else 0.0
    return max(0.0, 1 - abs(theirs.size - ours.size) / 2)


def _size(value: Any) -> float | None:
    try:
        number = abs(float(value))
    except (ValueError, OverflowError, TypeError):
        return None
    return math.log10(number) if 0 < number < math.inf else None
