"""Test that listings match and filters find them in a database whose locale has other rules for letters."""

from __future__ import annotations

import os
from collections.abc import Callable

import psycopg2
import pytest
from sqlalchemy import text

from settings import read_settings
from store.engine import make_engine
from tests.app.conftest import serve
from tests.servers import migrate
from tests.tasks.assets import assets, quote, resolve

LOCALES = {
    "turkish_icu": ("LOCALE_PROVIDER icu ICU_LOCALE 'tr' LOCALE 'C'", "QUICK", "quick"),
    "turkish_libc": ("LOCALE_PROVIDER libc LOCALE 'tr_TR.UTF-8'", "QUICK", "quick"),
    "c": ("LOCALE_PROVIDER libc LOCALE 'C'", "ÖRE", "öre"),
}
"""Options of CREATE DATABASE, with a symbol whose case differs in this locale, in upper and in lower case."""


@pytest.mark.parametrize("locale", LOCALES)
def test_symbols_match_in_any_case_whatever_the_locale_of_the_database(
    create_database: Callable[[str], str], locale: str
) -> None:
    options, upper, lower = LOCALES[locale]
    try:
        url = create_database(f"ENCODING 'UTF8' {options}")
    except psycopg2.Error as error:
        pytest.skip(f"this Postgres has no such locale: {error}")
    migrate(url)
    engine = make_engine(url, "test")
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT lower(:upper)"), {"upper": upper}) != lower
        connection.execute(text("INSERT INTO sources (name) VALUES ('coingecko'), ('coinpaprika')"))
    resolve(engine, "coingecko", quote("quickswap", lower, "Quickswap"))
    resolve(engine, "coinpaprika", quote("quick-quickswap", upper, "Quickswap"))
    if upper.isascii():  # The rules for listings ignore accents, which the key in SQL does not.
        assert [sorted(ids) for ids in assets(engine).values()] == [["quick-quickswap", "quickswap"]]
    for app in serve(read_settings({**os.environ, "DATABASE_URL": url})):
        api, spellings = app.test_client(), (upper, lower, lower.title())
        found = [(api.get("/assets", query_string={"symbol": symbol}).json or {})["data"] for symbol in spellings]
        assert found[0]
        assert found[1:] == found[:1] * 2
        assert api.get("/data", query_string={"symbol": lower}).status_code == 200
    engine.dispose()
