"""Test that /health reports a set-back of the database, and settings that can lose committed data."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from store.tables import IntegrityRow
from tests.app.quotes.test_data import get
from tests.app.rows import NOON, Rows
from tests.app.runs.anomaly_rows import insert_anomaly
from tests.processes import until

REASON = "the database moved from timeline 1 to 2, as in a failover; commits may be missing until the source's next run"


def test_a_set_back_degrades_the_database_until_each_source_has_completed_a_run(api: FlaskClient, rows: Rows) -> None:
    for source in ("coingecko", "coinpaprika"):
        rows.run(source)
        insert_anomaly(rows, None, "set_back", source=source, detail=REASON, found_at=NOON)
    insert_anomaly(rows, None, "set_back", detail="an earlier one", found_at=NOON - timedelta(days=1), over_at=NOON)
    assert get(api, "/health")["checks"]["database"] == {
        "status": "degraded",
        "detail": f"It was set back (detected at 2026-01-31T12:00:00Z): {REASON}. Sources: coingecko, coinpaprika.",
    }


def test_a_violation_of_integrity_degrades_the_database_and_is_in_the_statistics(api: FlaskClient, rows: Rows) -> None:
    values = {"name": "quotes_without_listing", "violations": 7, "last_example": "listing 3", "completed_at": NOON}
    rows.add(IntegrityRow(**values))
    rows.add(IntegrityRow(name="runs_with_too_many_quotes", violations=0))
    detail = "Its data is inconsistent: 7 quotes without listing, such as listing 3."
    assert get(api, "/health")["checks"]["database"] == {"status": "degraded", "detail": detail}
    assert get(api, "/stats")["integrity"][0] == {
        "check": "quotes_without_listing",
        "violations": 7,
        "example": "listing 3",
        "completed_at": "2026-01-31T12:00:00Z",
    }


@pytest.fixture(params=["fsync", "full_page_writes"])
def unsafe_setting(request: pytest.FixtureRequest, engine: Engine) -> Iterator[str]:
    """Yield the name of a setting that is off."""
    name = str(request.param)

    def change(statement: str, setting: str) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"ALTER SYSTEM {statement}"))
            connection.execute(text("SELECT pg_reload_conf()"))
            until(lambda: connection.scalar(text(f"SHOW {name}")) == setting, within=5)

    change(f"SET {name} = off", "off")
    yield name
    change(f"RESET {name}", "on")


def test_a_setting_that_can_lose_committed_data_degrades_the_database(api: FlaskClient, unsafe_setting: str) -> None:
    check = get(api, "/health")["checks"]["database"]
    assert check["status"] == "degraded"
    assert check["detail"].startswith(f"Its setting {unsafe_setting} is off: ")
