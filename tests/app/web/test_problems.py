"""What readers and writers of the API are told while sources are paused, or Postgres is in trouble."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from tasks.runs.pausing import pause_source, resume_source
from tests.app.quotes.test_data import get
from tests.app.rows import Rows

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


@pytest.fixture
def well(api: FlaskClient, rows: Rows, broker: Any) -> FlaskClient:
    """The API of a service whose parts all work."""
    for part in ("worker", "control", "beat"):
        rows.heartbeat(part, datetime.now(UTC))
    rows.run()
    assert get(api, "/health")["status"] == "ok"
    return api


def test_a_paused_source_degrades_whoever_paused_it_and_until_it_is_resumed(well: FlaskClient, engine: Engine) -> None:
    pause_source(engine, "coingecko", SOON, "the contract is being signed")
    pause_source(engine, "coinpaprika", None, "payment_required: the quota is used up")
    health = get(well, "/health")
    paused = health["checks"]["sources"]
    assert (health["status"], health["checks"]["database"]) == ("degraded", {"status": "ok"})
    assert paused["coingecko"]["detail"] == f"Paused until {SOON:%Y-%m-%dT%H:%M:%SZ}: the contract is being signed"
    assert paused["coingecko"]["status"] == paused["coinpaprika"]["status"] == "degraded"
    assert paused["coingecko"]["last_run_status"] == "succeeded"
    assert paused["coinpaprika"]["detail"].startswith("Paused until it is resumed: payment_required")
    assert paused["coinpaprika"]["paused_until"] is None
    assert "paused_until" not in paused["csv_history"]
    for name in ("coingecko", "coinpaprika"):
        resume_source(engine, name)
    assert get(well, "/health")["status"] == "ok"


def test_a_pause_that_is_over_degrades_nothing(well: FlaskClient, engine: Engine) -> None:
    pause_source(engine, "coingecko", datetime.now(UTC) - timedelta(seconds=1), "disk_full: it was")
    assert get(well, "/health")["status"] == "ok"


def test_a_full_disk_degrades_the_database_and_names_the_sources(well: FlaskClient, engine: Engine) -> None:
    for source in ("coingecko", "coinpaprika"):
        pause_source(engine, source, SOON, "disk_full: Postgres reported disk_full (53100)")
    answer = well.get("/health")
    assert answer.json is not None
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["checks"]["database"] == {
        "status": "degraded",
        "detail": "Its disk is full; paused because of that: coingecko, coinpaprika.",
    }


@pytest.fixture
def refuse(engine: Engine) -> Iterator[Any]:
    """Makes Postgres refuse new runs with the error that it gives a name to."""

    def refuse(name: str) -> None:
        with engine.begin() as connection:
            connection.execute(
                text(f"""
                    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        RAISE USING ERRCODE = '{name}', MESSAGE = 'could not extend file "base/1/2"'; END $$;
                    CREATE TRIGGER refuse BEFORE INSERT ON runs EXECUTE FUNCTION refuse();
                """)
            )

    yield refuse
    with engine.begin() as connection:
        connection.execute(text("DROP FUNCTION refuse CASCADE"))


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("disk_full", "No room is left on the database's disk."),
        ("read_only_sql_transaction", "The database cannot do this now."),
        ("too_many_connections", "The database does not answer."),
        ("serialization_failure", "Others were in the way of it in the database."),
    ],
)
def test_what_postgres_cannot_do_now_is_a_503_to_be_repeated(
    api: FlaskClient, token: dict[str, str], refuse: Any, name: str, detail: str
) -> None:
    refuse(name)
    answer = api.post("/runs", json={"source": "coingecko"}, headers=token)
    assert answer.json is not None
    assert (answer.status_code, answer.json["code"], answer.json["detail"]) == (503, "database_unavailable", detail)
    assert int(answer.headers["Retry-After"]) > 0
    assert "could not extend" not in answer.text
