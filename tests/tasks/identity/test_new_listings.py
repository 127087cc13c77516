"""Test that new listings are added in short transactions, with the same result as in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text

from settings import Settings
from sources.record_columns import ListingFields, ListingKey, key_of
from store.engine import make_engine
from tasks.identity import new_listings
from tasks.identity.assignment import plan_assignments
from tasks.identity.decisions import decision_lock, move
from tasks.identity.new_listings import ListingAdder, add_listings, split_into_batches, write_listings
from tests.processes import until
from tests.tasks.assets import assets, by_person, query, quote, resolve

pytestmark = pytest.mark.usefixtures("sources")


def page(*listings: ListingFields) -> dict[ListingKey, ListingFields]:
    return {key_of(listing): listing for listing in listings}


def pepe(number: int, symbol: str = "PEPE", name: str = "Pepe") -> ListingFields:
    return ListingFields(f"pepe-{number:05}", symbol, name, "USD")


def add_during(engine: Engine, decide: Callable[[Connection], Any], *listings: ListingFields) -> None:
    """Add listings of CoinGecko. Make a decision after they were planned and before they are written."""
    with decision_lock(engine) as connection:
        adding = threading.Thread(target=add_listings, args=(engine, "coingecko", page(*listings), {}))
        adding.start()
        until(lambda: query(engine, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        decide(connection)
    adding.join(30)


def write(connection: Connection, source: str, *listings: ListingFields) -> None:
    write_listings(connection, source, page(*listings), plan_assignments(connection, source, page(*listings), {}))


def test_a_large_page_of_one_name_is_added_in_short_transactions(engine: Engine) -> None:
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    add_listings(engine, "coingecko", page(*map(pepe, range(600))), {})
    sizes = query(engine, "SELECT xmin, count(*) FROM listings GROUP BY xmin ORDER BY 2 DESC")
    assert [row.count for row in sizes] == [250, 250, 100]
    assert len(assets(engine)) == 600
    assert len(statements) < 60


def test_an_asset_that_another_source_adds_after_the_plan_is_joined(engine: Engine) -> None:
    listings = [pepe(1), pepe(2, "ACM", "Acme")]
    add_during(engine, lambda connection: write(connection, "coinpaprika", pepe(7)), *listings)
    assert assets(engine) == {"pepe": ["pepe-00007", "pepe-00001"], "acme": ["pepe-00002"]}


def test_a_listing_that_another_slice_adds_after_the_plan_is_added_once(engine: Engine) -> None:
    add_during(engine, lambda connection: write(connection, "coingecko", pepe(1)), pepe(1), pepe(2))
    assert assets(engine) == {"pepe": ["pepe-00001"], "pepe-pepe": ["pepe-00002"]}


def test_a_slug_that_is_taken_after_the_plan_is_not_used_again(engine: Engine) -> None:
    add_during(engine, lambda connection: write(connection, "coinpaprika", pepe(7, "OTHER", "Pepe")), pepe(1))
    assert assets(engine) == {"pepe": ["pepe-00007"], "pepe-pepe": ["pepe-00001"]}


def test_the_slug_of_an_asset_that_was_added_and_emptied_after_the_plan_is_not_used_again(engine: Engine) -> None:
    empty_asset = text("INSERT INTO assets (slug, symbol, name) VALUES ('pepe', 'PEPE', 'Pepe')")
    add_during(engine, lambda connection: connection.execute(empty_asset), pepe(1))
    assert assets(engine) == {"pepe": [], "pepe-pepe": ["pepe-00001"]}


def test_the_first_batch_still_competes_with_the_rest_of_its_page(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_listings, "LISTINGS_PER_TRANSACTION", 1)
    resolve(engine, "coinpaprika", quote("other", "PEPE", "Pepe"))
    adder = ListingAdder("coingecko", page(pepe(1), pepe(2)), {})
    with decision_lock(engine) as connection:
        adder.plan(connection)
        adder.write_next(connection)
        connection.execute(text("INSERT INTO assets (slug, symbol, name) VALUES ('pepe-pepe-2', 'PEPE', 'Pepe')"))
        adder.write_next(connection)
        assert list(adder.remaining) == [key_of(pepe(2))]
        adder.plan(connection)
        adder.write_next(connection)
    slugs = {slug: ids for slug, ids in assets(engine).items() if ids}
    assert slugs == {"pepe": ["other"], "pepe-pepe": ["pepe-00001"], "pepe-pepe-3": ["pepe-00002"]}


def test_only_the_listings_that_a_later_decision_affects_are_planned_again(engine: Engine) -> None:
    listings = [pepe(number, name=f"Pepe No{number}") for number in range(600)]
    plans = count_plans(engine)
    add_during(engine, lambda connection: write(connection, "coinpaprika", pepe(7, name="Pepe No500")), *listings)
    assert assets(engine)["pepe-no500"] == ["pepe-00007", "pepe-00500"]
    assert len(assets(engine)) == 600
    # The one of the other source, that of the page, and that of the one listing.
    assert len(plans) == 3


def count_plans(engine: Engine) -> list[str]:
    """Return a list to which each plan for listings without an assignment adds one item."""
    plans: list[str] = []

    def note(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if "WITH candidates" in statement:
            plans.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    return plans


@pytest.fixture
def busy_engine(engine: Engine, settings: Settings) -> Iterator[Engine]:
    """Yield an engine whose every wait for the lock is preceded by a decision about PEPE in another session."""
    resolve(engine, "coinpaprika", quote("other", "PEPE", "Pepe Cash"))
    [row] = query(engine, "SELECT id, asset FROM listings")

    def decide(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        if "pg_advisory_xact_lock" in statement:
            with decision_lock(engine) as other:
                move(other, [row.id], row.asset, by_person("pinned"))

    busy = make_engine(settings.database_url, "busy")
    event.listen(busy, "before_cursor_execute", decide)
    yield busy
    busy.dispose()


def test_a_page_is_added_even_if_others_decide_about_its_symbol_all_the_time(
    engine: Engine, busy_engine: Engine
) -> None:
    add_listings(busy_engine, "coingecko", page(pepe(1), pepe(2, "ACM", "Acme")), {})
    assert len(assets(engine)) == 3


def test_a_page_of_one_name_is_planned_once_even_if_others_decide_about_that_name_all_the_time(
    engine: Engine, busy_engine: Engine
) -> None:
    plans = count_plans(busy_engine)
    add_listings(busy_engine, "coingecko", page(*map(pepe, range(300))), {})
    assert len(assets(engine)) == 301
    assert len(plans) == 1


def test_batches_keep_listings_with_one_symbol_or_one_id_together() -> None:
    listings = page(
        pepe(1), pepe(2, "ACM"), ListingFields("pepe-00002", "PEPE", "Pepe", "XYZ"), pepe(3), pepe(4), pepe(5, "X")
    )
    numbers = [[id_.lstrip("pe-0") for id_, _ in batch] for batch in split_into_batches(listings, 3)]
    assert numbers == [["1", "3", "4"], ["2", "2", "5"]]
    assert [len(batch) for batch in split_into_batches(listings, 2)] == [2, 1, 2, 1]
    assert list(split_into_batches(listings, 6)) == [list(listings)]
