"""Provide the stored sources and assets of the identity tests."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from tests.tasks.assets import add_sources, add_uniswap_and_universe


@pytest.fixture
def sources(engine: Engine) -> None:
    """Insert the rows of three sources."""
    add_sources(engine)


@pytest.fixture
def two_assets(engine: Engine) -> None:
    """Insert the assets Uniswap and Universe, which have the same symbol."""
    add_uniswap_and_universe(engine)
