"""What becomes of items where their source's schema has changed: a field of theirs is null, or they are rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sources.contract import DriftPolicy, Item, Reject
from tasks.drift.profile import Change, FieldProfile, leaves, type_of

Policed = Sequence[tuple[Change, DriftPolicy]]


@dataclass
class KnownProfile:
    """A format's shape as a slice knows it. is_stale: another has made this version, and it has to be read anew."""

    version: int
    shape: FieldProfile
    is_learning: bool
    is_stale: bool = False


@dataclass(frozen=True)
class DriftFindings:
    """What is to be kept of a page's changes, with the page.

    version: of the format's shape, against which the page was held. shape: as it is after the page, as JSON, where it
    is to be written down; evolved: as the next version.
    """

    format: str
    known: KnownProfile
    version: int
    changes: Policed = ()
    new_fields: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    shape: str | None = None
    evolved: bool = False


@dataclass(frozen=True)
class PageDrift:
    """affecting: changes, of this page or an earlier one, for which items are rejected or lose a field."""

    affecting: Policed = ()
    found: DriftFindings | None = None

    def treated(self, item: Item) -> Item:
        """The item, without what is to be discarded; or the reject that it is."""
        if not isinstance(item, dict):
            return item
        fields = dict(leaves(item))
        for change, policy in self.affecting:
            if not is_affected(fields, change):
                continue
            if policy == "quarantine":
                return Reject(change.field, "drift", f"expected the fields that its source had: {change}", item=item)
            item = _with_null(item, change.field)
        return item


def is_affected(fields: Mapping[str, Any], change: Change) -> bool:
    if change.kind == "retyped":
        return type_of(fields.get(change.field)) == change.became
    return (change.field in fields) == (change.kind == "new")


def _with_null(item: dict[Any, Any], path: str) -> dict[Any, Any]:
    """Of the same class: a source may tell its items by it."""
    for name, value in item.items() if path not in item else ():
        if isinstance(value, dict) and path.startswith(f"{name}."):
            return type(item)({**item, name: _with_null(value, path.removeprefix(f"{name}."))})
    return type(item)({**item, path: None})
