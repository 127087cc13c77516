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
from tasks.claims import Claim
from tasks.shape import Change, Field, Shape, changes, evolve, shape_of
from tasks.treatment import Drift, Found, Policed
from tasks.used import fields_used

log = structlog.get_logger()

MOST_CHANGES = 50
"""Of one page; the rest shows itself with the next."""

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


class Watch:
    """What a slice knows of its source's shape, in each of its formats. Its pages come one after the other."""

    def __init__(self, engine: Engine, source: Source, claim: Claim):
        self._engine, self._source, self._claim = engine, source, claim
        self._shapes: dict[str, tuple[int, Shape]] = {}
        self._waiting: dict[str, list[Change]] = {}
        self._looked: Counter[str] = Counter()
        self._learning: set[str] = set()

    def treat(self, page: Page, _: Sequence[Item] = ()) -> Drift:
        """As changes of earlier pages want it, which nobody has accepted yet."""
        return Drift(self._affecting(self._source.format(page)))

    def look(self, page: Page, sample: Sequence[Item]) -> Drift:
        """The same, after a look at the page's own changes. Raises TerminalError where one freezes the source."""
        form, shape = self._source.format(page), shape_of(sample)
        if not shape.items:
            return self.treat(page)
        self._looked[form] += 1
        version, before = self._known(form)
        if form in self._learning:
            return self._learn(form, version, before, shape)
        found_changes = changes(before, shape)
        if found_changes and self._is_outdated(form):
            version, before = self._known(form)
            found_changes = changes(before, shape)
        found = self._policed(found_changes[:MOST_CHANGES], sample)
        new = {name: shape.fields[name].told() for change, _ in found if (name := change.new_name)}
        for change, policy in found:
            if policy == "freeze":
                self._freeze(change, Found(form, found, new, version))
        accepted = [change for change, policy in found if policy == "evolve"]
        waiting = [change for change, policy in found if policy != "evolve"]
        evolve(before, shape, accepted, whole=not waiting)
        self._shapes[form] = version + bool(accepted), before
        known = self._waiting.setdefault(form, [])
        known += [change for change in waiting if change.key not in {it.key for it in known}]
        told = _as_json(before) if accepted or self._is_due(form) else None
        return Drift(self._affecting(form), Found(form, found, new, version, told, evolved=bool(accepted)))

    def _learn(self, form: str, version: int, before: Shape, shape: Shape) -> Drift:
        """In the run that is the first to send a format: what its pages have is what there is."""
        is_first, is_more = version == 0, not shape.fields.keys() <= before.fields.keys()
        before.add(shape)
        self._shapes[form] = 1, before
        told = _as_json(before) if is_first or is_more or self._is_due(form) else None
        return Drift(found=Found(form, version=version, shape=told, evolved=is_first))

    def _known(self, form: str) -> tuple[int, Shape]:
        if form not in self._shapes:
            with self._engine.connect() as connection:
                self._shapes[form] = known_shape(connection, self._source.name, form)
                if _first_run(connection, self._source.name, form) in (None, self._claim.run):
                    self._learning.add(form)
        return self._shapes[form]

    def _is_due(self, form: str) -> bool:
        """How often a field is null is written down now and then: with the first page, the second, the fourth, …"""
        return self._looked[form].bit_count() == 1

    def _is_outdated(self, form: str) -> bool:
        """Whether somebody else has accepted a change; then what is known is read anew."""
        with self._engine.connect() as connection:
            is_outdated = known_shape(connection, self._source.name, form)[0] > self._shapes[form][0]
        if is_outdated:
            del self._shapes[form]
            self._waiting.pop(form, None)
        return is_outdated

    def _policy(self, change: Change) -> DriftPolicy:
        return self._source.drift.get(change.field) or self._source.drift.get("*", "evolve")

    def _policed(self, found: Sequence[Change], sample: Sequence[Item]) -> Policed:
        """Each with its policy. A new field that the mapping does not use changes nothing for it."""
        new = [change.field for change in found if change.kind == "new"]
        used = fields_used(self._source, sample) if new and any(map(self._matters, found)) else None
        unused = {name for name in new if used is None or not used.has(name)}
        return [
            (change, "evolve" if change.kind == "new" and change.field in unused else self._policy(change))
            for change in found
        ]

    def _matters(self, change: Change) -> bool:
        return change.kind == "new" and self._policy(change) != "evolve"

    def _affecting(self, form: str) -> Policed:
        if form not in self._waiting:
            with self._engine.connect() as connection:
                self._waiting[form] = _waiting(connection, self._source.name, form)
        policed = [(change, self._policy(change)) for change in self._waiting[form]]
        return [(change, policy) for change, policy in policed if policy in ("discard", "quarantine")]

    def _freeze(self, change: Change, found: Found) -> None:
        with self._engine.begin() as connection:
            keep_drift(connection, self._claim, found)
        raise TerminalError(
            f"{self._source.name}: the fields of its items have changed, and its policy is to freeze: {change}. "
            f"See /sources/{self._source.name}/drift",
            code="schema_frozen",
            pause=UNTIL_RESUMED,
        )


def known_shape(connection: Connection, source: str, form: str) -> tuple[int, Shape]:
    """The newest version of a format's shape, and its number; an empty one and 0 where there is none yet."""
    row = connection.execute(
        text("""
            SELECT version, items, fields FROM shapes WHERE source = :source AND format = :format
             ORDER BY version DESC LIMIT 1
        """),
        {"source": source, "format": form},
    ).one_or_none()
    return (row.version, Shape.of(row.items, row.fields)) if row else (0, Shape())


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


def keep_drift(connection: Connection, claim: Claim, found: Found) -> None:
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
            log.warning("schema_drift", change=str(change), policy=policy)
    if found.shape is not None and found.evolved:
        _add_version(connection, named, found.version + 1, found.shape)
    elif found.shape is not None:
        connection.execute(
            text("""
                UPDATE shapes SET items = (it->>'items')::bigint, fields = it->'fields'
                  FROM CAST(:shape AS jsonb) AS it
                 WHERE source = :source AND format = :format AND version = :version
            """),
            {**named, "version": found.version, "shape": found.shape},
        )


def accept(engine: Engine, source: str, number: int, by: str) -> bool:
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
        new = {change.new_name: Field.of(row.new_field)} if change.new_name else {}
        named = {"source": source, "format": row.format, "run": row.last_run}
        while True:
            version, shape = known_shape(connection, source, row.format)
            evolve(shape, Shape(fields=new), [change], whole=False)
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
    return added.rowcount == 1


def _as_json(shape: Shape) -> str:
    return json.dumps(shape.told())
