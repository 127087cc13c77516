"""Test the constraints on field changes and anomalies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.exc import IntegrityError

from store.tables import AnomalyRow, DriftChangeRow
from tests.app.rows import NOON, Rows


def test_a_change_is_pending_at_most_once(engine: Engine) -> None:
    run = Rows(engine).run()
    change: dict[str, Any] = {"source": "coingecko", "format": "", "version": 1, "kind": "vanished", "field": "price"}
    change |= {"policy": "quarantine", "run": run, "last_run": run}
    with engine.begin() as connection:
        connection.execute(insert(DriftChangeRow).values(**change, accepted_at=NOON))
        connection.execute(insert(DriftChangeRow).values(**change))
    with pytest.raises(IntegrityError, match="drift_waiting"), engine.begin() as connection:
        connection.execute(insert(DriftChangeRow).values(**change))


def test_a_source_has_at_most_one_current_late_anomaly(engine: Engine) -> None:
    Rows(engine).run()
    late = insert(AnomalyRow).values(source="coingecko", kind="late", detail="no good run for 3 h")
    with engine.begin() as connection:
        connection.execute(late.values(over_at=NOON))
        connection.execute(late.values(over_at=NOON + timedelta(hours=1)))
        connection.execute(late)
    with pytest.raises(IntegrityError, match="anomalies_late"), engine.begin() as connection:
        connection.execute(late)
