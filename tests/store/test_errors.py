"""Test the classification of errors that a real Postgres reports."""

from __future__ import annotations

import io
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from settings import Settings
from store.engine import make_engine
from store.errors import DatabaseError, classify, describe

PASSWORD = "a-password-nobody-may-see"


def error_of(engine: Engine, statement: str) -> DBAPIError:
    with pytest.raises(DBAPIError) as raised, engine.connect() as connection:
        connection.execute(text(statement))
    return raised.value


def reported(engine: Engine, state: str, message: str = "for the test") -> DBAPIError:
    """Make the server report an error with this SQLSTATE, and return the error."""
    raising = f"RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = '{message}'"
    return error_of(engine, f"DO $$ BEGIN {raising}; END $$")


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("40001", DatabaseError.CONFLICT),  # serialization_failure
        ("40P01", DatabaseError.CONFLICT),  # deadlock_detected
        ("55P03", DatabaseError.CONFLICT),  # lock_not_available
        ("23505", DatabaseError.CONFLICT),  # unique_violation
        ("08006", DatabaseError.CONNECTION_LOST),  # connection_failure
        ("57P01", DatabaseError.CONNECTION_LOST),  # admin_shutdown
        ("57P03", DatabaseError.CONNECTION_LOST),  # cannot_connect_now
        ("53300", DatabaseError.CONNECTION_LOST),  # too_many_connections
        ("25006", DatabaseError.UNAVAILABLE),  # read_only_sql_transaction, an InternalError for psycopg2
        ("25P04", DatabaseError.UNAVAILABLE),  # transaction_timeout, likewise
        ("57014", DatabaseError.UNAVAILABLE),  # query_canceled
        ("53200", DatabaseError.UNAVAILABLE),  # out_of_memory
        ("58030", DatabaseError.UNAVAILABLE),  # io_error
        ("53100", DatabaseError.DISK_FULL),  # disk_full
        ("22012", None),  # division_by_zero
        ("42P01", None),  # undefined_table
        ("XX000", None),  # internal_error
    ],
)
def test_the_sqlstate_determines_the_kind_of_error(engine: Engine, state: str, kind: DatabaseError | None) -> None:
    assert classify(reported(engine, state)) is kind


def test_an_exceeded_quota_counts_as_a_full_disk(engine: Engine) -> None:
    full = reported(engine, "58030", 'could not extend file "base/1/2": Disk quota exceeded')
    assert classify(full) is DatabaseError.DISK_FULL


def test_refused_and_killed_connections_both_count_as_lost(engine: Engine) -> None:
    nowhere = make_engine(f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nowhere", "test")
    refused = error_of(nowhere, "SELECT 1")
    killed = error_of(engine, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert (classify(refused), classify(killed)) == (DatabaseError.CONNECTION_LOST, DatabaseError.CONNECTION_LOST)
    assert describe(refused) == describe(killed) == "the connection to Postgres broke, or none was available"


def test_a_driver_error_raised_by_copy_is_also_classified(settings: Settings) -> None:
    with closing(psycopg2.connect(settings.database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("""
            CREATE TABLE pg_temp.full_table (n int);
            CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql
                AS $$ BEGIN RAISE USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON pg_temp.full_table FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse();
        """)
        with pytest.raises(psycopg2.Error) as raised:
            cursor.copy_expert("COPY pg_temp.full_table FROM STDIN", io.StringIO("1\n"))
    assert classify(raised.value) is DatabaseError.DISK_FULL


def test_our_own_bugs_are_not_classified_as_server_errors(engine: Engine) -> None:
    mistaken = error_of(engine, "SELECT nonsense")
    assert [classify(error) for error in (mistaken, ValueError("ours"), TimeoutError())] == [None, None, None]


def test_the_description_leaves_out_the_text_of_the_error(engine: Engine) -> None:
    assert describe(reported(engine, "53100", PASSWORD)) == "Postgres reported disk_full (53100)"
    assert describe(reported(engine, "58P99", PASSWORD)) == "Postgres reported an error (58P99)"
