"""Test the constraints on pages and rejects."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import IntegrityError

from store.tables import PageRow
from tests.app.rows import Rows


def test_a_page_has_an_outcome_for_every_item(engine: Engine) -> None:
    rows = Rows(engine)
    run = rows.run()
    rows.page(run, inserted=2, rejected=1)
    with pytest.raises(IntegrityError, match="pages_conservation_check"), engine.begin() as connection:
        connection.execute(update(PageRow).where(PageRow.run == run).values(fetched=4))


def test_a_reject_has_a_declared_state(engine: Engine) -> None:
    rows = Rows(engine)
    digest = rows.page(rows.run(), rejected=1)
    with pytest.raises(IntegrityError, match="rejects_state_check"):
        rows.reject(digest, state="deleted")
