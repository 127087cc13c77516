"""What becomes of items where their source's schema has changed: a field of theirs is null, or they are rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sources.contract import DriftPolicy, Item, Reject
from tasks.shape import Change, leaves, type_of

Policed = Sequence[tuple[Change, DriftPolicy]]


@dataclass(frozen=True)
class Found:
    """What is to be kept of a page's changes, with the page.

    version: of the format's shape, against which the page was held. shape: as it is after the page, as JSON, where it
    is to be written down; evolved: as the next version.
    """

    format: str = ""
    changes: Policed = ()
    new_fields: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    version: int = 0
    shape: str | None = None
    evolved: bool = False


@dataclass(frozen=True)
class Drift:
    """affecting: changes, of this page or an earlier one, for which items are rejected or lose a field."""

    affecting: Policed = ()
    found: Found = field(default_factory=Found)

    def treated(self, item: Item) -> Item:
        """The item, without what is to be discarded; or the reject that it is."""
        if not isinstance(item, Mapping):
            return item
        fields = dict(leaves(item))
        for change, policy in self.affecting:
            if not _is_affected(fields, change):
                continue
            if policy == "quarantine":
                return Reject(change.field, "drift", f"expected the fields that its source had: {change}", item=item)
            item = _with_null(item, change.field)
        return item


def _is_affected(fields: Mapping[str, Any], change: Change) -> bool:
    if change.kind == "retyped":
        return type_of(fields.get(change.field)) == change.became
    return (change.field in fields) == (change.kind == "new")


def _with_null(item: Mapping[Any, Any], path: str) -> dict[Any, Any]:
    for name, value in item.items():
        if isinstance(value, Mapping) and path.startswith(f"{name}."):
            return {**item, name: _with_null(value, path.removeprefix(f"{name}."))}
    return {**item, path: None}
