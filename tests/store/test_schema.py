"""Test the comparison of the database's revision with the migrations of this version."""

from __future__ import annotations

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from sqlalchemy.exc import DataError, ProgrammingError

import store.schema
from settings import Settings
from store.errors import DatabaseError, classify, describe
from store.schema import HEAD, REVISIONS, explain, is_behind, is_newer, read_revision
from tests.processes import ROOT


def test_the_names_of_the_files_are_the_revisions_of_the_migrations() -> None:
    scripts = ScriptDirectory(str(ROOT / "store/migrations"))
    assert [script.revision for script in scripts.walk_revisions()] == list(reversed(REVISIONS))
    assert scripts.get_current_head() == HEAD


@pytest.mark.parametrize(
    ("revision", "behind", "newer"),
    [(HEAD, False, False), ("0001", True, False), (None, True, False), ("9", False, True)],
)
def test_a_known_older_revision_is_behind_and_an_unknown_one_is_newer(
    revision: str | None, behind: bool, newer: bool
) -> None:
    assert (is_behind(revision), is_newer(revision)) == (behind, newer)


def test_the_revision_is_read_from_the_database(engine: Engine) -> None:
    with engine.begin() as connection:
        assert read_revision(connection) == HEAD
        connection.execute(text("DROP TABLE alembic_version"))
        assert read_revision(connection) is None


def fail(engine: Engine, statement: str) -> Exception:
    with pytest.raises((ProgrammingError, DataError)) as raised, engine.connect() as connection:
        connection.execute(text(statement))
    return raised.value


@pytest.mark.parametrize("statement", ["SELECT missing FROM runs", "TABLE missing", "SELECT missing()"])
def test_a_missing_name_is_explained_by_a_schema_that_is_behind(engine: Engine, statement: str) -> None:
    error = fail(engine, statement)
    assert explain(engine, error) is error
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0012'"))
    explained = explain(engine, error)
    assert classify(explained) is DatabaseError.SCHEMA_BEHIND
    assert describe(explained).startswith(f"The schema has revision 0012, and this version needs {HEAD}. Run `alembic")


def test_a_missing_name_in_a_newer_schema_is_a_bug(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert classify(explain(engine, fail(engine, "TABLE missing"))) is None


def test_an_error_without_a_code_needs_no_database(settings: Settings, engine: Engine) -> None:
    engine.dispose()
    error = RuntimeError("not from Postgres")
    assert explain(engine, error) is error


def test_an_error_of_the_moment_before_the_migration_is_no_bug(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind_at(revision: str) -> DatabaseError | None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        return classify(explain(engine, error))

    error = fail(engine, "TABLE missing")
    assert kind_at("0012") is DatabaseError.SCHEMA_BEHIND
    assert kind_at(HEAD) is DatabaseError.SCHEMA_BEHIND
    monkeypatch.setattr(store.schema, "CATCH_UP_SECONDS", 0)
    assert kind_at(HEAD) is None
