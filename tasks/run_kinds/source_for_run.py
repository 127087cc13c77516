"""A source as a run of each kind goes through it."""

from __future__ import annotations

from sqlalchemy import Engine

from sources.contract import Source
from tasks.run_kinds import backfill
from tasks.run_kinds import replay as replays
from tasks.runs.claims import Claim

OURS = (replays.PARTITION, backfill.PARTITION)
"""How partitions begin that no source names."""


def as_its_kind(engine: Engine, source: Source, claim: Claim) -> Source:
    if claim.kind == "replay":
        return replays.replayed(engine, backfill.with_history(source), claim)
    return backfill.backfilled(engine, source, claim) if claim.kind == "backfill" else source
