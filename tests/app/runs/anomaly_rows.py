"""Insert anomalies directly, as the judgement of a run writes them."""

from __future__ import annotations

import uuid
from typing import Any

from store.tables import AnomalyRow
from tests.app.rows import Rows


def insert_anomaly(rows: Rows, run: uuid.UUID | None, kind: str = "rows", **columns: Any) -> None:
    values = {"source": "coingecko", "detail": "6 items, where 60 is usual", "value": 6, "expected": 60, **columns}
    rows.add(AnomalyRow(run=run, kind=kind, **values))
