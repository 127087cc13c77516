"""Declare the tables. `store/migrations` creates the same tables in a database.

docs/explanation/architecture.md#the-tables explains why each table exists.
"""

from __future__ import annotations

from store.tables.base import Base
from store.tables.drift import DRIFT_KINDS, AnomalyRow, DriftChangeRow, ProfileRow
from store.tables.identity import SYMBOL_KEY, AssetRow, CandidateRow, DecisionRow, ListingRow, upper_case
from store.tables.pages import OUTCOMES, REJECT_STATES, PageRow, RawBodyRow, RejectRow, ValidatorRow
from store.tables.quotes import LatestQuoteRow, QuoteRow, RevisionRow, SeenQuoteRow
from store.tables.runs import (
    RUN_KINDS,
    RUN_STATUSES,
    UNFINISHED,
    UNJUDGED,
    CheckpointRow,
    ClockRow,
    HeartbeatRow,
    IdempotencyKeyRow,
    IntegrityRow,
    RunRow,
    SourceRow,
    TimelineRow,
)

__all__ = [
    "DRIFT_KINDS",
    "OUTCOMES",
    "REJECT_STATES",
    "RUN_KINDS",
    "RUN_STATUSES",
    "SYMBOL_KEY",
    "UNFINISHED",
    "UNJUDGED",
    "AnomalyRow",
    "AssetRow",
    "Base",
    "CandidateRow",
    "CheckpointRow",
    "ClockRow",
    "DecisionRow",
    "DriftChangeRow",
    "HeartbeatRow",
    "IdempotencyKeyRow",
    "IntegrityRow",
    "LatestQuoteRow",
    "ListingRow",
    "PageRow",
    "ProfileRow",
    "QuoteRow",
    "RawBodyRow",
    "RejectRow",
    "RevisionRow",
    "RunRow",
    "SeenQuoteRow",
    "SourceRow",
    "TimelineRow",
    "ValidatorRow",
    "upper_case",
]
