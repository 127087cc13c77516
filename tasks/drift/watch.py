"""Compare each live page of a slice with the known profile of its format, and apply the source's drift policy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import Engine

from sources.contract import UNTIL_RESUMED, DriftPolicy, Item, Page, Source, TerminalError
from tasks.drift.changes import Change, evolve, find_changes
from tasks.drift.mapped_fields import mapped_fields
from tasks.drift.policy import ChangesWithPolicy, DriftFindings, KnownProfile, PageDrift, is_affected
from tasks.drift.profile import FieldProfile, leaves, profile_items
from tasks.drift.stored_profiles import first_run, known_profile, save_drift, waiting_changes
from tasks.runs.claims import Claim

MAX_CHANGES_PER_PAGE = 50
"""The maximum number of changes to store per page, waiting changes first. The policy applies to all changes."""


class DriftWatch:
    """The drift detector of one slice. It must get the slice's pages in order, and it caches the formats' profiles."""

    def __init__(self, engine: Engine, source: Source, claim: Claim):
        self._engine, self._source, self._claim = engine, source, claim
        self._formats: dict[str, KnownProfile] = {}
        self._waiting: dict[str, list[Change]] = {}
        self._page_counts: Counter[str] = Counter()

    def apply_waiting(self, page: Page, _: Sequence[Item] = ()) -> PageDrift:
        """Return the unaccepted changes of earlier pages, without searching for new changes."""
        return PageDrift(self._changes_in_force(self._source.format(page)))

    def examine(self, page: Page, sample: Sequence[Item]) -> PageDrift:
        """Return all unaccepted changes, with this page's. Raise TerminalError if one of them freezes the source."""
        format_, profile = self._source.format(page), profile_items(sample)
        if not profile.items:
            return self.apply_waiting(page)
        self._page_counts[format_] += 1
        known = self._known(format_)
        if known.is_learning:
            return self._learn(format_, known, profile)
        changes = find_changes(known.profile, profile)
        if changes and self._forget_if_outdated(format_):
            known = self._known(format_)
            changes = find_changes(known.profile, profile)
        return self._apply(format_, known, profile, self._with_policies(changes, sample), sample)

    def _learn(self, format_: str, known: KnownProfile, profile: FieldProfile) -> PageDrift:
        """Accept all fields of a page: it belongs to the first run of its format."""
        version, has_new_fields = known.version, not profile.fields.keys() <= known.profile.fields.keys()
        known.profile.add(profile)
        known.version = 1
        must_store = version == 0 or has_new_fields or self._is_due(format_)
        stored = _as_json(known.profile) if must_store else None
        return PageDrift(findings=DriftFindings(format_, known, version, profile=stored, evolved=version == 0))

    def _apply(
        self,
        format_: str,
        known: KnownProfile,
        profile: FieldProfile,
        changes: ChangesWithPolicy,
        sample: Sequence[Item],
    ) -> PageDrift:
        """Apply the policies to the changes of a page. Raise TerminalError if one of the policies is `freeze`."""
        new_fields = {name: profile.fields[name].to_json() for change, _ in changes if (name := change.new_name)}
        stored_changes = sorted(changes, key=lambda entry: entry[1] == "evolve")[:MAX_CHANGES_PER_PAGE]
        for change, policy in changes:
            if policy == "freeze":
                self._freeze(change, DriftFindings(format_, known, known.version, stored_changes, new_fields))
        waiting = self._add_waiting(format_, (change for change, policy in changes if policy != "evolve"))
        accepted = [change for change, policy in changes if policy == "evolve"]
        # A page that shows an unaccepted change must not be added to the profile.
        evolve(known.profile, profile, accepted, add_page=not _shows_any(sample, waiting))
        version, known.version = known.version, known.version + bool(accepted)
        stored = _as_json(known.profile) if accepted or self._is_due(format_) else None
        findings = DriftFindings(format_, known, version, stored_changes, new_fields, stored, evolved=bool(accepted))
        return PageDrift(self._changes_in_force(format_), findings)

    def _known(self, format_: str) -> KnownProfile:
        if format_ in self._formats and self._formats[format_].is_stale:
            self._forget(format_)
        if format_ not in self._formats:
            with self._engine.connect() as connection:
                version, profile = known_profile(connection, self._source.name, format_)
                learned_by = first_run(connection, self._source.name, format_)
            self._formats[format_] = KnownProfile(version, profile, is_learning=learned_by in (None, self._claim.run))
        return self._formats[format_]

    def _forget(self, format_: str) -> None:
        del self._formats[format_]
        self._waiting.pop(format_, None)

    def _is_due(self, format_: str) -> bool:
        """Return whether to store the profile although it has no change: after page 1, 2, 4, 8, …"""
        return self._page_counts[format_].bit_count() == 1

    def _forget_if_outdated(self, format_: str) -> bool:
        """Discard a cached profile if another process has replaced it. Return whether it was discarded."""
        with self._engine.connect() as connection:
            newest, _ = known_profile(connection, self._source.name, format_)
        is_outdated = newest > self._formats[format_].version
        if is_outdated:
            self._forget(format_)
        return is_outdated

    def _policy(self, change: Change) -> DriftPolicy:
        return self._source.drift.get(change.field) or self._source.drift.get("*", "evolve")

    def _with_policies(self, changes: Sequence[Change], sample: Sequence[Item]) -> ChangesWithPolicy:
        """Return each change with its policy: `evolve` for a new field that the mapping does not read."""
        new = {change.field for change in changes if change.kind == "new"}
        needs_mapping = any(change.kind == "new" and self._policy(change) != "evolve" for change in changes)
        mapped = mapped_fields(self._source, sample) if needs_mapping else None
        unused = {name for name in new if mapped is None or not mapped.may_include(name)}
        return [
            (change, "evolve" if change.kind == "new" and change.field in unused else self._policy(change))
            for change in changes
        ]

    def _waiting_of(self, format_: str) -> list[Change]:
        if format_ not in self._waiting:
            with self._engine.connect() as connection:
                self._waiting[format_] = waiting_changes(connection, self._source.name, format_)
        return self._waiting[format_]

    def _add_waiting(self, format_: str, changes: Iterable[Change]) -> Sequence[Change]:
        """Add changes to the unaccepted changes. Return all unaccepted changes."""
        waiting = self._waiting_of(format_)
        keys = {change.key for change in waiting}
        waiting += [change for change in changes if change.key not in keys]
        return waiting

    def _changes_in_force(self, format_: str) -> ChangesWithPolicy:
        changes = [(change, self._policy(change)) for change in self._waiting_of(format_)]
        return [(change, policy) for change, policy in changes if policy in ("discard", "quarantine")]

    def _freeze(self, change: Change, findings: DriftFindings) -> None:
        with self._engine.begin() as connection:
            save_drift(connection, self._claim, findings)
        name = self._source.name
        raise TerminalError(
            f"{name}: a field changed, and its drift policy is freeze: {change}. Accept the change "
            f"(GET /sources/{name}/drift lists it), then resume the source",
            code="schema_frozen",
            pause=UNTIL_RESUMED,
        )


def _shows_any(sample: Sequence[Item], waiting: Sequence[Change]) -> bool:
    """Return whether an unaccepted change affects an item of the sample."""
    if not waiting:
        return False
    items = [dict(leaves(item)) for item in sample if isinstance(item, dict)]
    return any(is_affected(fields, change) for fields in items for change in waiting)


def _as_json(profile: FieldProfile) -> str:
    return json.dumps(profile.to_json())
