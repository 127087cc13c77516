"""Test that the position of the database is read, and that a forbidden part of it is reported once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from tasks.set_backs.position import read_position


@pytest.fixture
def forbidden(engine: Engine) -> Iterator[Engine]:
    """Forbid the functions of the position, as some managed services do. Yield an engine of a role without rights."""
    revoke = "REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_walfile_name(pg_lsn) FROM PUBLIC"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE limited; {revoke}"))
    yield engine
    with engine.begin() as connection:
        connection.execute(text(f"DROP ROLE limited; {revoke.replace('REVOKE', 'GRANT').replace('FROM', 'TO')}"))


def test_the_position_names_the_server_the_timeline_and_the_last_commit(engine: Engine) -> None:
    with engine.connect() as connection:
        position = read_position(connection)
    assert position.system_identifier
    assert position.system_identifier.isdigit()
    assert position.timeline == 1
    assert position.lsn
    assert "/" in position.lsn


def test_a_role_that_may_not_read_the_server_still_gets_the_rest_and_one_warning(forbidden: Engine) -> None:
    with forbidden.connect() as connection, capture_logs() as logs:
        connection.execute(text("SET ROLE limited"))
        positions = [read_position(connection) for _ in range(2)]
    for position in positions:
        assert (position.system_identifier, position.timeline) == (None, None)
        assert position.lsn
    warnings = [log["expression"] for log in logs if log["event"] == "timeline_unwatched"]
    assert len(warnings) == 2
    assert "pg_control_system" in warnings[0]
    assert "pg_walfile_name" in warnings[1]
