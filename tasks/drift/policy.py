"""Apply a drift policy to items: set a changed field to null, or reject the item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sources.contract import DriftPolicy, Item, Reject
from tasks.drift.changes import Change
from tasks.drift.profile import FieldProfile, leaves, type_of

ChangesWithPolicy = Sequence[tuple[Change, DriftPolicy]]


@dataclass
class KnownProfile:
    """A format's profile, as cached by a slice.

    is_learning: whether this is the format's first run, which accepts all fields.
    is_stale: whether another worker has stored this version, so that it must be read again.
    """

    version: int
    profile: FieldProfile
    is_learning: bool
    is_stale: bool = False


@dataclass(frozen=True)
class DriftFindings:
    """The changes and the profile to store in the page's transaction.

    version: the version of the profile that the page was compared with.
    new_fields: the statistics of new fields, by name.
    profile: the profile after the page, as JSON; None if it need not be stored.
    evolved: whether the profile becomes the next version.
    """

    format: str
    known: KnownProfile
    version: int
    changes: ChangesWithPolicy = ()
    new_fields: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    profile: str | None = None
    evolved: bool = False


@dataclass(frozen=True)
class PageDrift:
    """The effect of changed fields on a page.

    changes_in_force: changes of this page or earlier pages that reject items or discard a field.
    """

    changes_in_force: ChangesWithPolicy = ()
    findings: DriftFindings | None = None

    def apply(self, item: Item) -> Item:
        """Return the item with discarded fields set to null, or a Reject if a change quarantines it."""
        if not isinstance(item, dict):
            return item
        fields = dict(leaves(item))
        for change, policy in self.changes_in_force:
            if not is_affected(fields, change):
                continue
            if policy == "quarantine":
                detail = f"the source's fields changed: {change}; accept the change or adapt the mapping, then replay"
                return Reject(change.field, "drift", detail, item=item)
            item = _with_null(item, change.field)
        return item


def is_affected(fields: Mapping[str, Any], change: Change) -> bool:
    """Return whether an item shows a change. fields: the item's values by path."""
    if change.kind == "retyped":
        return type_of(fields.get(change.field)) == change.became
    return (change.field in fields) == (change.kind == "new")


def _with_null(item: dict[Any, Any], path: str) -> dict[Any, Any]:
    """Return a copy with null at a path. Keep the item's class, which a source may use to distinguish its items."""
    for name, value in item.items() if path not in item else ():
        if isinstance(value, dict) and path.startswith(f"{name}."):
            return type(item)({**item, name: _with_null(value, path.removeprefix(f"{name}."))})
    return type(item)({**item, path: None})
