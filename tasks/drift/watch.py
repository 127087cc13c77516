"""Drift of a source's schema: a live page's shape is held against what came before, and a policy says what follows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from sources.contract import UNTIL_RESUMED, DriftPolicy, Item, Page, Source, TerminalError
from tasks.drift.mapped_fields import mapped_fields
from tasks.drift.policy import DriftFindings, KnownProfile, PageDrift, Policed, is_affected
from tasks.drift.profile import Change, FieldProfile, FieldStats, evolve, leaves, profile_changes, profile_items
from tasks.runs.claims import Claim

log = structlog.get_logger()

MOST_CHANGES = 50
"""Of one page are written down, those that wait for somebody first. All are held to their policies."""

VERSIONS_KEPT = 20
"""Of a shape; and its first, which tells which run learned it."""

POLICY = "policy"
"""Who accepted a change that nobody had to look at."""

_CHANGE = """
    INSERT INTO drift (source, format, version, kind, field, was, became, confidence, policy, run, last_run, new_field,
                       accepted_at, accepted_by)
    VALUES (:source, :format, :version, :kind, :field, :was, :became, :confidence, :policy, :run, :run,
            CAST(:new_field AS jsonb), CASE WHEN :evolves THEN clock_timestamp() END, CASE WHEN :evolves THEN :by END)
"""

# Of two workers that come upon the same at the same time, one makes the row.
_EVOLVED = f"""{_CHANGE}
    ON CONFLICT (source, format, version, kind, field, coalesce(became, '')) WHERE accepted_by = 'policy' DO NOTHING
"""

_WAITING = f"""{_CHANGE}
    ON CONFLICT (source, format, kind, field, coalesce(became, '')) WHERE accepted_at IS NULL DO UPDATE
       SET last_seen_at = clock_timestamp(), last_run = excluded.run, pages = drift.pages + 1, policy = excluded.policy
    RETURNING pages
"""


class DriftWatch:
    """What a slice knows of its source's shape, in each of its formats. Its pages come one after the other."""

    def __init__(self, engine: Engine, source: Source, claim: Claim):
        self._engine, self._source, self._claim = engine, source, claim
        self._formats: dict[str, KnownProfile] = {}
        self._waiting: dict[str, list[Change]] = {}
        self._looked: Counter[str] = Counter()

    def treat(self, page: Page, _: Sequence[Item] = ()) -> PageDrift:
        """As changes of earlier pages want it, which nobody has accepted yet."""
        return PageDrift(self._affecting(self._source.format(page)))

    def look(self, page: Page, sample: Sequence[Item]) -> PageDrift:
        """The same, after a look at the page's own changes. Raises TerminalError where one freezes the source."""
        form, shape = self._source.format(page), profile_items(sample)
        if not shape.items:
            return self.treat(page)
        self._looked[form] += 1
        known = self._known(form)
        if known.is_learning:
            return self._learn(form, known, shape)
        differ = profile_changes(known.shape, shape)
        if differ and self._is_outdated(form):
            known = self._known(form)
            differ = profile_changes(known.shape, shape)
        policed = self._policed(differ, sample)
        new = {name: shape.fields[name].told() for change, _ in policed if (name := change.new_name)}
        # What waits comes first: of the rest, the table takes what it has room for.
        told = sorted(policed, key=lambda it: it[1] == "evolve")[:MOST_CHANGES]
        for change, policy in policed:
            if policy == "freeze":
                self._freeze(change, DriftFindings(form, known, known.version, told, new))
        waiting = self._waiting_of(form)
        waiting += [
            change for change, policy in policed if policy != "evolve" and change.key not in {it.key for it in waiting}
        ]
        accepted = [change for change, policy in policed if policy == "evolve"]
        # A page that shows what waits is no example of what is right.
        evolve(known.shape, shape, accepted, whole=not _shows(sample, waiting))
        version, known.version = known.version, known.version + bool(accepted)
        as_json = _as_json(known.shape) if accepted or self._is_due(form) else None
        return PageDrift(
            self._affecting(form), DriftFindings(form, known, version, told, new, as_json, evolved=bool(accepted))
        )

    def _learn(self, form: str, known: KnownProfile, shape: FieldProfile) -> PageDrift:
        """In the run that is the first to send a format: what its pages have is what there is."""
        version, is_more = known.version, not shape.fields.keys() <= known.shape.fields.keys()
        known.shape.add(shape)
        known.version = 1
        told = _as_json(known.shape) if version == 0 or is_more or self._is_due(form) else None
        return PageDrift(found=DriftFindings(form, known, version, shape=told, evolved=version == 0))

    def _known(self, form: str) -> KnownProfile:
        if form in self._formats and self._formats[form].is_stale:
            self._forget(form)
        if form not in self._formats:
            with self._engine.connect() as connection:
                version, shape = known_profile(connection, self._source.name, form)
                first_run = _first_run(connection, self._source.name, form)
            self._formats[form] = KnownProfile(version, shape, is_learning=first_run in (None, self._claim.run))
        return self._formats[form]

    def _forget(self, form: str) -> None:
        del self._formats[form]
        self._waiting.pop(form, None)

    def _is_due(self, form: str) -> bool:
        """How often a field is null is written down now and then: with the first page, the second, the fourth, …"""
        return self._looked[form].bit_count() == 1

    def _is_outdated(self, form: str) -> bool:
        """Whether somebody else has accepted a change; then what is known is read anew."""
        with self._engine.connect() as connection:
            is_outdated = known_profile(connection, self._source.name, form)[0] > self._formats[form].version
        if is_outdated:
            self._forget(form)
        return is_outdated

    def _policy(self, change: Change) -> DriftPolicy:
        return self._source.drift.get(change.field) or self._source.drift.get("*", "evolve")

    def _policed(self, found: Sequence[Change], sample: Sequence[Item]) -> Policed:
        """Each with its policy. A new field that the mapping does not use changes nothing for it."""
        new = [change.field for change in found if change.kind == "new"]
        used = mapped_fields(self._source, sample) if new and any(map(self._matters, found)) else None
        unused = {name for name in new if used is None or not used.has(name)}
        return [
            (change, "evolve" if change.kind == "new" and change.field in unused else self._policy(change))
            for change in found
        ]

    def _matters(self, change: Change) -> bool:
        return change.kind == "new" and self._policy(change) != "evolve"

    def _waiting_of(self, form: str) -> list[Change]:
        if form not in self._waiting:
            with self._engine.connect() as connection:
                self._waiting[form] = _waiting(connection, self._source.name, form)
        return self._waiting[form]

    def _affecting(self, form: str) -> Policed:
        policed = [(change, self._policy(change)) for change in self._waiting_of(form)]
        return [(change, policy) for change, policy in policed if policy in ("discard", "quarantine")]

    def _freeze(self, change: Change, found: DriftFindings) -> None:
        with self._engine.begin() as connection:
            save_drift(connection, self._claim, found)
        raise TerminalError(
            f"{self._source.name}: the fields of its items have changed, and its policy is to freeze: {change}. "
            f"See /sources/{self._source.name}/drift",
            code="schema_frozen",
            pause=UNTIL_RESUMED,
        )


def _shows(sample: Sequence[Item], waiting: Sequence[Change]) -> bool:
    """Whether one of the items is affected by a change that waits."""
    if not waiting:
        return False
    fields = [dict(leaves(item)) for item in sample if isinstance(item, dict)]
    return any(is_affected(them, change) for them in fields for change in waiting)


def known_profile(connection: Connection, source: str, form: str) -> tuple[int, FieldProfile]:
    """The newest version of a format's shape, and its number; an empty one and 0 where there is none yet."""
    row = connection.execute(
        text("""
            SELECT version, items, fields FROM shapes WHERE source = :source AND format = :format
             ORDER BY version DESC LIMIT 1
        """),
        {"source": source, "format": form},
    ).one_or_none()
    return (row.version, FieldProfile.of(row.items, row.fields)) if row else (0, FieldProfile())


def _first_run(connection: Connection, source: str, form: str) -> UUID | None:
    """The run that came upon a format first."""
    run: UUID | None = connection.scalar(
        text("SELECT run FROM shapes WHERE source = :source AND format = :format AND version = 1"),
        {"source": source, "format": form},
    )
    return run


def _waiting(connection: Connection, source: str, form: str) -> list[Change]:
    rows = connection.execute(
        text("""
            SELECT kind, field, was, became, confidence::float8 AS confidence FROM drift AS d
             WHERE source = :source AND format = :format AND accepted_at IS NULL
               -- A page that was under way while it was accepted may have noted it once more.
               AND NOT EXISTS (SELECT FROM drift AS a
                                WHERE (a.source, a.format, a.kind, a.field) = (d.source, d.format, d.kind, d.field)
                                  AND a.became IS NOT DISTINCT FROM d.became AND a.accepted_at >= d.seen_at)
             ORDER BY id
        """),
        {"source": source, "format": form},
    )
    return [Change(**row) for row in rows.mappings()]


def save_drift(connection: Connection, claim: Claim, found: DriftFindings) -> None:
    """Within a page's transaction. First the changes, then the shape, as whoever accepts one: else the two deadlock."""
    named = {"source": claim.source, "format": found.format, "run": claim.run}
    for change, policy in found.changes:
        evolves = policy == "evolve"
        kept = connection.execute(
            text(_EVOLVED if evolves else _WAITING),
            {
                **named,
                **change._asdict(),
                "version": found.version,
                "policy": policy,
                "new_field": json.dumps(found.new_fields[change.new_name]) if change.new_name else None,
                "evolves": evolves,
                "by": POLICY,
            },
        )
        if kept.rowcount and (evolves or kept.scalar_one() == 1):
            log.warning("drift_detected", change=str(change), policy=policy)
    if found.shape is not None and found.evolved:
        found.known.is_stale |= not _add_version(connection, named, found.version + 1, found.shape)
    elif found.shape is not None and not found.known.is_stale:
        connection.execute(
            text("""
                UPDATE shapes SET items = (it->>'items')::bigint, fields = it->'fields'
                  FROM CAST(:shape AS jsonb) AS it
                 WHERE source = :source AND format = :format AND version = :version
            """),
            {**named, "version": found.version, "shape": found.shape},
        )


def accept_change(engine: Engine, source: str, number: int, by: str) -> bool:
    """Say that a change is right, so that it is none any more; False where there is no such change."""
    with engine.begin() as connection:
        row = connection.execute(
            text("""
                SELECT format, kind, field, was, became, confidence::float8 AS confidence, new_field, last_run,
                       accepted_at
                  FROM drift WHERE source = :source AND id = :number FOR UPDATE
            """),
            {"source": source, "number": number},
        ).one_or_none()
        if row is None or row.accepted_at:
            return row is not None
        change = Change(row.kind, row.field, row.was, row.became, row.confidence)
        new = {change.new_name: FieldStats.of(row.new_field)} if change.new_name else {}
        named = {"source": source, "format": row.format, "run": row.last_run}
        while True:
            version, shape = known_profile(connection, source, row.format)
            evolve(shape, FieldProfile(fields=new), [change], whole=False)
            if _add_version(connection, named, version + 1, _as_json(shape)):
                break  # else a page has just evolved it otherwise
        connection.execute(
            text("UPDATE drift SET accepted_at = clock_timestamp(), accepted_by = :by WHERE id = :number"),
            {"number": number, "by": by},
        )
    log.info("drift_accepted", source=source, change=str(change), by=by)
    return True


def _add_version(connection: Connection, named: Mapping[str, Any], version: int, shape: str) -> bool:
    """False where another has added it: what is new in this one is found again, against that."""
    added = connection.execute(
        text("""
            INSERT INTO shapes (source, format, version, run, items, fields)
            SELECT :source, :format, :version, :run, (it->>'items')::bigint, it->'fields'
              FROM CAST(:shape AS jsonb) AS it
            ON CONFLICT (source, format, version) DO NOTHING
        """),
        {**named, "version": version, "shape": shape},
    )
    connection.execute(
        text("""
            DELETE FROM shapes
             WHERE source = :source AND format = :format AND version > 1 AND version <= :version - :kept
        """),
        {**named, "version": version, "kept": VERSIONS_KEPT},
    )
    return added.rowcount == 1


def _as_json(shape: FieldProfile) -> str:
    return json.dumps(shape.told())
