"""Compare a page's profile with that of earlier items, and add accepted changes to a profile. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from rapidfuzz import fuzz

from tasks.drift.profile import MAX_FIELDS, NUMERIC_TEXT, TEXT, FieldProfile, FieldStats

ChangeKind = Literal["new", "vanished", "renamed", "retyped"]

MIN_KNOWN_SHARE = 0.98
"""A field can vanish only if at least this share of the earlier items had it."""

MAX_KNOWN_TYPE_SHARE, MIN_PAGE_TYPE_SHARE = 0.05, 0.5
"""A field is retyped if a type had at most the first share of earlier values and has at least the second share now."""

MAX_CHANCE = 1e-3
"""The maximum probability that a change is only a coincidence. A page of one item is rarely enough evidence."""

MAX_COMPUTED_VALUES = 50
"""Above this number of values, the probability is assumed to be 0 instead of being computed."""

MIN_RENAME_CONFIDENCE = 0.6
"""The minimum confidence that a vanished field and a new field are one renamed field."""

NAME_WEIGHT = 0.7
"""Weight of the names' similarity in the confidence of a renaming. The values' similarity has the remaining weight."""

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


class Change(NamedTuple):
    """A change of one field. was: its earlier type. confidence: of a renaming, from 0 to 1.

    became: the new name of a renamed field, or the new type of any other field.
    """

    kind: ChangeKind
    field: str
    was: str | None = None
    became: str | None = None
    confidence: float | None = None

    @property
    def key(self) -> tuple[ChangeKind, str, str | None]:
        """Return the values that identify this change across pages."""
        return self.kind, self.field, self.became

    @property
    def new_name(self) -> str | None:
        """Return the name of the field that did not exist before; None if there is none."""
        return {"new": self.field, "renamed": self.became}.get(self.kind)

    def __str__(self) -> str:
        if self.kind == "renamed":
            return f"`{self.field}` vanished, `{self.became}` appeared: {self.confidence:.2f}"
        if self.kind == "retyped":
            return f"`{self.field}` was {self.was}, is {self.became}"
        return f"`{self.field}` {'vanished' if self.kind == 'vanished' else 'appeared'}"


def find_changes(known: FieldProfile, page: FieldProfile) -> list[Change]:
    """Return the changes of a page compared with the profile of earlier items; none if the page has no items."""
    if not page.items:
        return []
    vanished = {path: stats for path, stats in known.fields.items() if _has_vanished(path, stats, known, page)}
    free_fields = max(0, MAX_FIELDS - len(known.fields))
    new = dict([entry for entry in page.fields.items() if entry[0] not in known.fields][:free_fields])
    renamed = list(_renamed(vanished, new))
    old_names, new_names = {change.field for change in renamed}, {change.became for change in renamed}
    return [
        *renamed,
        *(Change("vanished", path, was=stats.main_type) for path, stats in vanished.items() if path not in old_names),
        *_retyped(known, page),
        *(Change("new", path, became=stats.main_type) for path, stats in new.items() if path not in new_names),
    ]


def evolve(profile: FieldProfile, page: FieldProfile, accepted: Iterable[Change], *, add_page: bool) -> None:
    """Add accepted changes to a profile, so that later pages do not show them. add_page: also add the page's counts."""
    if add_page:
        profile.add(page)
    for change in accepted:
        if change.new_name:
            profile.fields.setdefault(change.new_name, page.fields[change.new_name])
        if change.kind in ("vanished", "renamed"):
            stats = profile.fields[change.field]
            stats.present = max(0, min(stats.present, int(MIN_KNOWN_SHARE * profile.items) - 1))
        if change.kind == "retyped":
            types = profile.fields[change.field].types
            types[str(change.became)] += max(1, types.total())


def _has_vanished(path: str, stats: FieldStats, known: FieldProfile, page: FieldProfile) -> bool:
    if stats.present < MIN_KNOWN_SHARE * known.items or path in page.fields:
        return False
    missing_share = 1 - (stats.present + 1) / (known.items + 2)
    return bool(missing_share**page.items < MAX_CHANCE)


def _retyped(known: FieldProfile, page: FieldProfile) -> Iterator[Change]:
    for path, stats in page.fields.items():
        before = known.fields.get(path)
        if before is None or not before.types or not stats.types:
            continue
        known_values, page_values = before.types.total(), stats.types.total()
        for type_name, count in stats.types.items():
            if (
                count < MIN_PAGE_TYPE_SHARE * page_values
                or before.types[type_name] > MAX_KNOWN_TYPE_SHARE * known_values
            ):
                continue
            # A text field may contain texts that look like numbers.
            if (before.main_type, type_name) == (TEXT, NUMERIC_TEXT):
                continue
            share = (before.types[type_name] + 1) / (known_values + 2)
            if _probability_of_at_least(count, page_values, share) < MAX_CHANCE:
                yield Change("retyped", path, was=before.main_type, became=type_name)


def _probability_of_at_least(count: int, values: int, share: float) -> float:
    """Return the probability that at least `count` values have a type, if each has it with probability `share`."""
    if values > MAX_COMPUTED_VALUES:
        return 0.0
    return sum(math.comb(values, n) * share**n * (1 - share) ** (values - n) for n in range(count, values + 1))


def _renamed(vanished: Mapping[str, FieldStats], new: Mapping[str, FieldStats]) -> Iterator[Change]:
    """Yield renamings, the highest confidence first. Each field is in at most one of them."""
    pairs = sorted(
        (
            (rename_confidence(old_name, old_stats, new_name, new_stats), old_name, new_name)
            for old_name, old_stats in vanished.items()
            for new_name, new_stats in new.items()
        ),
        reverse=True,
    )
    matched_names: set[tuple[str, str]] = set()
    for confidence, old_name, new_name in pairs:
        names = {("old", old_name), ("new", new_name)}
        if confidence >= MIN_RENAME_CONFIDENCE and not names & matched_names:
            matched_names |= names
            was = vanished[old_name].main_type
            yield Change("renamed", old_name, was=was, became=new_name, confidence=round(confidence, 2))


def rename_confidence(old_name: str, old: FieldStats, new_name: str, new: FieldStats) -> float:
    """Return the confidence, from 0 to 1, that a field was renamed, by the similarity of its names and values."""
    return NAME_WEIGHT * _name_similarity(old_name, new_name) + (1 - NAME_WEIGHT) * _value_similarity(old, new)


def _name_similarity(old_name: str, new_name: str) -> float:
    texts = [" ".join(word.lower() for word in WORD.findall(name)) for name in (old_name, new_name)]
    # A name with an added word is weaker evidence than a name in another spelling.
    return max(fuzz.ratio(*texts), 0.9 * fuzz.token_set_ratio(*texts)) / 100


def _value_similarity(old: FieldStats, new: FieldStats) -> float:
    if old.main_type != new.main_type:
        return 0.0
    if old.magnitude is None or new.magnitude is None:
        return 0.5 if old.main_type else 0.0
    return max(0.0, 1 - abs(old.magnitude - new.magnitude) / 2)
