"""Adapt a source to a run of each kind: live, replay or backfill."""

from __future__ import annotations

from sqlalchemy import Engine

from sources.contract import Source
from tasks.run_kinds import backfill
from tasks.run_kinds import replay as replays
from tasks.runs.claims import Claim


def source_for_run(engine: Engine, source: Source, claim: Claim) -> Source:
    """Return the source, adapted to the kind of this run."""
    if claim.kind == "replay":
        return replays.replay_source(engine, backfill.with_history(source), claim)
    return backfill.backfill_source(engine, source, claim) if claim.kind == "backfill" else source
