"""Read and store the profiles of a source's formats and their changes, and accept changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text

from sources.contract import DriftPolicy
from tasks.drift.changes import Change, evolve
from tasks.drift.policy import DriftFindings
from tasks.drift.profile import FieldProfile, FieldStats
from tasks.runs.claims import Claim

log = structlog.get_logger()

MAX_VERSIONS = 20
"""How many of the newest versions of a profile to store. The first version is kept too: it names the run that learned
the format."""

BY_POLICY = "policy"
"""The author recorded for changes that are accepted by the policy instead of a person."""

_INSERT_CHANGE = """
    INSERT INTO drift (source, format, version, kind, field, was, became, confidence, policy, run, last_run, new_field,
                       accepted_at, accepted_by)
    VALUES (:source, :format, :version, :kind, :field, :was, :became, :confidence, :policy, :run, :run,
            CAST(:new_field AS jsonb), CASE WHEN :evolves THEN service_time() END, CASE WHEN :evolves THEN :by END)
"""

# If two workers find the same change at the same time, one of them inserts it.
_ADD_EVOLVED_CHANGE = f"""{_INSERT_CHANGE}
    ON CONFLICT (source, format, version, kind, field, coalesce(became, '')) WHERE accepted_by = 'policy' DO NOTHING
"""

_ADD_WAITING_CHANGE = f"""{_INSERT_CHANGE}
    ON CONFLICT (source, format, kind, field, coalesce(became, '')) WHERE accepted_at IS NULL DO UPDATE
       SET last_seen_at = service_time(), last_run = excluded.run, pages = drift.pages + 1, policy = excluded.policy
    RETURNING pages
"""


def known_profile(connection: Connection, source: str, format_: str) -> tuple[int, FieldProfile]:
    """Return the number and the profile of a format's newest version; 0 and an empty profile if there is none."""
    row = connection.execute(
        text("""
            SELECT version, items, fields FROM shapes WHERE source = :source AND format = :format
             ORDER BY version DESC LIMIT 1
        """),
        {"source": source, "format": format_},
    ).one_or_none()
    return (row.version, FieldProfile.from_json(row.items, row.fields)) if row else (0, FieldProfile())


def first_run(connection: Connection, source: str, format_: str) -> UUID | None:
    """Return the run that first read a format; None if there was none."""
    run: UUID | None = connection.scalar(
        text("SELECT run FROM shapes WHERE source = :source AND format = :format AND version = 1"),
        {"source": source, "format": format_},
    )
    return run


def waiting_changes(connection: Connection, source: str, format_: str) -> list[Change]:
    """Return the unaccepted changes of a format, the oldest first."""
    rows = connection.execute(
        text("""
            SELECT kind, field, was, became, confidence::float8 AS confidence FROM drift AS waiting
             WHERE source = :source AND format = :format AND accepted_at IS NULL
               -- A page that was being loaded during the acceptance may have stored the change again.
               AND NOT EXISTS (SELECT FROM drift AS accepted
                                WHERE (accepted.source, accepted.format, accepted.kind, accepted.field)
                                    = (waiting.source, waiting.format, waiting.kind, waiting.field)
                                  AND accepted.became IS NOT DISTINCT FROM waiting.became
                                  AND accepted.accepted_at >= waiting.seen_at)
             ORDER BY id
        """),
        {"source": source, "format": format_},
    )
    return [Change(**row) for row in rows.mappings()]


def save_drift(connection: Connection, claim: Claim, findings: DriftFindings) -> None:
    """Store the findings of a page, in its transaction.

    Store the changes before the profile, as in `accept_change`. In another order, the two functions could deadlock.
    """
    keys = {"source": claim.source, "format": findings.format, "run": claim.run}
    for change, policy in findings.changes:
        if _save_change(connection, keys, findings, change, policy):
            log.warning("drift_detected", change=str(change), policy=policy)
    if findings.profile is not None and findings.evolved:
        is_added = _add_version(connection, keys, findings.version + 1, findings.profile)
        findings.known.is_stale |= not is_added
    elif findings.profile is not None and not findings.known.is_stale:
        connection.execute(
            text("""
                UPDATE shapes SET items = (profile->>'items')::bigint, fields = profile->'fields'
                  FROM CAST(:profile AS jsonb) AS profile
                 WHERE source = :source AND format = :format AND version = :version
            """),
            {**keys, "version": findings.version, "profile": findings.profile},
        )


def _save_change(
    connection: Connection, keys: Mapping[str, Any], findings: DriftFindings, change: Change, policy: DriftPolicy
) -> bool:
    """Store a change of a page. Return whether this is the first page that shows the change."""
    evolves = policy == "evolve"
    saved = connection.execute(
        text(_ADD_EVOLVED_CHANGE if evolves else _ADD_WAITING_CHANGE),
        {
            **keys,
            **change._asdict(),
            "version": findings.version,
            "policy": policy,
            "new_field": json.dumps(findings.new_fields[change.new_name]) if change.new_name else None,
            "evolves": evolves,
            "by": BY_POLICY,
        },
    )
    return bool(saved.rowcount and (evolves or saved.scalar_one() == 1))


def accept_change(engine: Engine, source: str, number: int, by: str) -> bool:
    """Accept a change, by its id, so that later pages do not show it. Return False if there is no such change.

    This is idempotent.
    """
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
        new_fields = {change.new_name: FieldStats.from_json(row.new_field)} if change.new_name else {}
        keys = {"source": source, "format": row.format, "run": row.last_run}
        is_added = False
        while not is_added:  # A page may store the same version first.
            version, profile = known_profile(connection, source, row.format)
            evolve(profile, FieldProfile(fields=new_fields), [change], add_page=False)
            is_added = _add_version(connection, keys, version + 1, json.dumps(profile.to_json()))
        connection.execute(
            text("UPDATE drift SET accepted_at = service_time(), accepted_by = :by WHERE id = :number"),
            {"number": number, "by": by},
        )
    log.info("drift_accepted", source=source, change=str(change), by=by)
    return True


def _add_version(connection: Connection, keys: Mapping[str, Any], version: int, profile: str) -> bool:
    """Store a version of a profile. Return False if another process stored this version number first.

    Later pages are then compared with that version, and their changes are detected again.
    """
    added = connection.execute(
        text("""
            INSERT INTO shapes (source, format, version, run, items, fields)
            SELECT :source, :format, :version, :run, (profile->>'items')::bigint, profile->'fields'
              FROM CAST(:profile AS jsonb) AS profile
            ON CONFLICT (source, format, version) DO NOTHING
        """),
        {**keys, "version": version, "profile": profile},
    )
    connection.execute(
        text("""
            DELETE FROM shapes
             WHERE source = :source AND format = :format AND version > 1 AND version <= :version - :max_versions
        """),
        {**keys, "version": version, "max_versions": MAX_VERSIONS},
    )
    return added.rowcount == 1
