"""Test that a process has one engine with named sessions and a transaction timeout."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tasks.runtime.database import worker_engine
from tests.processes import until


@pytest.mark.usefixtures("process_settings")
def test_a_process_has_one_engine_and_its_sessions_are_named_kasparro_worker() -> None:
    assert worker_engine() is worker_engine()
    with worker_engine().connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "kasparro-worker"


@pytest.mark.usefixtures("process_settings")
def test_postgres_ends_a_transaction_that_exceeds_its_timeout() -> None:
    engine = worker_engine()

    def is_alive(session: int) -> bool:
        with engine.connect() as connection:
            query = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :session")
            return connection.scalar(query, {"session": session}) == 1

    with engine.connect() as connection:
        session = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        assert is_alive(session)
        until(lambda: not is_alive(session), what="Postgres ended the session")
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1"))
