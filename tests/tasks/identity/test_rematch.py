"""What a second look makes of assets that share a symbol: one, two, or a candidate."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, Engine
from structlog.testing import capture_logs

from sources.record_columns import key_of
from tasks.identity.decisions import Verdict, decision_lock, move
from tasks.identity.rematch import BITE, rematch_assets
from tasks.identity.resolver import _learn
from tests.app.rows import Rows
from tests.processes import until
from tests.tasks.assets import ask, assets, merge, pin, quote, resolve, split, undo
from tests.upstreams import OBSERVED


@pytest.fixture(autouse=True)
def sources(engine: Engine) -> None:
    ask(engine, "INSERT INTO sources (name) VALUES ('coinpaprika'), ('coingecko'), ('csv_history')")


def price(engine: Engine, id_: str, price: str, at: datetime = OBSERVED) -> None:
    [row] = ask(engine, "SELECT id FROM listings WHERE source_asset_id = :id", id=id_)
    Rows(engine).quote(row.id, at, price)


def candidates(engine: Engine) -> list[tuple[str, str, Any, Any]]:
    query = """
        SELECT one.slug AS one, other.slug AS other, evidence ->> 'alike' AS alike,
               (evidence ->> 'prices_apart')::numeric AS apart
          FROM candidates JOIN assets AS one ON one.id = one JOIN assets AS other ON other.id = other ORDER BY 1, 2
    """
    return [tuple(row) for row in ask(engine, query)]


def acme(engine: Engine, one: str = "Acme", other: str = "Acme Rockets") -> None:
    """One symbol, in each of two sources once."""
    resolve(engine, "coinpaprika", quote("acm-1", "ACM", one))
    resolve(engine, "coingecko", quote("second", "acm", other))


def test_of_a_symbol_that_nobody_else_has_part_of_a_name_is_enough(engine: Engine) -> None:
    acme(engine)
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1", "second"], "acme-rockets": []}
    [row] = ask(engine, "SELECT method, decided_by, confidence, evidence FROM decisions ORDER BY id DESC LIMIT 1")
    assert (row.method, row.decided_by, row.confidence) == ("symbol_and_part_of_name", "second_look", Decimal("0.85"))
    assert row.evidence["listings"][0] == [{"symbol": "ACM", "name": "Acme", "source_asset_id": "acm-1"}]
    assert candidates(engine) == []


def test_what_a_person_took_back_is_not_done_again(engine: Engine) -> None:
    acme(engine)
    rematch_assets(engine, {})
    [row] = ask(engine, "SELECT change FROM decisions WHERE decided_by = 'second_look'")
    undo(engine, row.change)
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}
    assert candidates(engine) == []


def because(method: str) -> Verdict:
    return Verdict(method, "test", reason="it is so")


def test_what_a_person_merged_is_still_a_candidate_for_what_comes_later(engine: Engine) -> None:
    acme(engine, other="Road Runner")
    merge(engine, "road-runner", "acme", because("merged"))
    resolve(engine, "csv_history", quote("ACM", "ACM", "Acme Anvils"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1", "second"], "road-runner": [], "acme-anvils": ["ACM"]}
    assert candidates(engine) == [("acme", "acme-anvils", "symbol_and_part_of_name", None)]


def test_what_a_person_took_apart_is_no_candidate(engine: Engine) -> None:
    acme(engine, other="Acme")
    resolve(engine, "csv_history", quote("third", "acm", "Road Runner"))
    split(engine, "acme", [("coingecko", "second")], because("split"))
    rematch_assets(engine, {})
    assert candidates(engine) == []
    merge(engine, "acme", "road-runner", because("merged"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": [], "acme-acm": ["second"], "road-runner": ["acm-1", "third"]}
    assert candidates(engine) == []


def test_a_pin_speaks_against_what_is_there_and_not_what_comes_later(engine: Engine) -> None:
    acme(engine)
    pinning = pin(engine, "acme", [("coinpaprika", "acm-1")], because("pinned"))
    rematch_assets(engine, {})
    assert candidates(engine) == []
    resolve(engine, "csv_history", quote("ACM", "ACM", "Acme Anvils"))
    rematch_assets(engine, {})
    assert ("acme", "acme-anvils", "symbol_and_part_of_name", None) in candidates(engine)
    assert not [it for it in candidates(engine) if set(it) > {"acme", "acme-rockets"}]
    undo(engine, pinning)
    rematch_assets(engine, {})
    assert ("acme", "acme-rockets", "symbol_and_part_of_name", None) in candidates(engine)


def test_where_a_third_has_the_symbol_it_is_in_doubt(engine: Engine) -> None:
    acme(engine)
    resolve(engine, "coingecko", quote("third", "acm", "Road Runner"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"], "road-runner": ["third"]}
    assert candidates(engine) == [("acme", "acme-rockets", "symbol_and_part_of_name", None)]


def test_one_that_both_sources_list_is_a_third_too(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("road", "ACM", "Road Runner"), quote("acm-1", "ACM", "Acme Rockets"))
    resolve(engine, "coingecko", quote("runner", "acm", "Road Runner"), quote("second", "acm", "Acme Anvils"))
    rematch_assets(engine, {})
    assert assets(engine) == {"road-runner": ["road", "runner"], "acme-rockets": ["acm-1"], "acme-anvils": ["second"]}
    assert candidates(engine) == [("acme-rockets", "acme-anvils", "symbol_and_rare_word", None)]


def test_of_two_symbols_that_are_shared_a_third_may_have_neither(engine: Engine) -> None:
    resolve(engine, "coinpaprika", quote("acm-1", "ACM", "Acme"), quote("acm-1", "ANV", "Acme", "EUR"))
    resolve(engine, "coingecko", quote("second", "acm", "Acme Rockets"), quote("second", "anv", "Acme Rockets", "EUR"))
    resolve(engine, "coingecko", quote("third", "anv", "Road Runner"))
    rematch_assets(engine, {})
    assert assets(engine) == {"acme": ["acm-1"] * 2, "acme-rockets": ["second"] * 2, "road-runner": ["third"]}
    assert candidates(engine) == [("acme", "acme-rockets", "symbol_and_part_of_name", None)]


def test_prices_that_are_far_apart_say_that_it_is_another(engine: Engine) -> None:
    acme(engine)
    price(engine, "acm-1", "100")
    price(engine, "second", "111", OBSERVED + timedelta(minutes=59))
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1"]
    assert candidates(engine) == [("acme", "acme-rockets", "symbol_and_part_of_name", Decimal("0.11"))]


def test_prices_of_another_time_say_nothing(engine: Engine) -> None:
    acme(engine)
    price(engine, "acm-1", "100")
    price(engine, "second", "200", OBSERVED + timedelta(minutes=61))
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1", "second"]


def test_a_symbol_and_a_price_alone_are_a_candidate_and_no_more(engine: Engine) -> None:
    acme(engine, other="Road Runner")
    rematch_assets(engine, {})
    assert candidates(engine) == []
    price(engine, "acm-1", "100")
    price(engine, "second", "101")
    rematch_assets(engine, {})
    assert assets(engine)["acme"] == ["acm-1"]
    assert candidates(engine) == [("acme", "road-runner", None, Decimal("0.01"))]
    price(engine, "second", "120", OBSERVED + timedelta(minutes=1))
    rematch_assets(engine, {})
    assert candidates(engine) == []


@pytest.mark.parametrize(
    ("one", "other", "becomes_one"),
    [
        ("Acme Rockets", "Acme Anvils", True),
        ("Acme USD", "Anvil USD", False),
        ("Acme Rockets", "Wrapped Acme", False),
        ("Acme Rockets", "Acme (Wormhole)", False),
        ("Road Runner", "Acme", False),
        ("ACM", "ACM Rockets", False),
    ],
)
def test_what_names_must_share(engine: Engine, one: str, other: str, *, becomes_one: bool) -> None:
    acme(engine, one, other)
    rematch_assets(engine, {})
    assert (sorted(map(len, assets(engine).values())) == [0, 2]) == becomes_one


def test_a_word_that_many_names_have_tells_nothing(engine: Engine) -> None:
    acme(engine, "Acme Rockets", "Acme Anvils")
    resolve(engine, "csv_history", *(quote(f"{n}", f"X{n}", f"Acme {n}th") for n in range(3)))
    rematch_assets(engine, {})
    assert assets(engine)["acme-rockets"] == ["acm-1"]


def while_it_looks(engine: Engine, meanwhile: Callable[[Connection], Any]) -> None:
    """Decide something after a second look has looked, and before it merges."""
    with decision_lock(engine) as connection:
        looking = threading.Thread(target=rematch_assets, args=(engine, {}))
        looking.start()
        until(lambda: ask(engine, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        meanwhile(connection)
    looking.join(30)


def test_what_is_decided_while_it_looks_holds(engine: Engine) -> None:
    acme(engine)
    [row] = ask(engine, "SELECT id, asset FROM listings WHERE source_asset_id = 'acm-1'")
    while_it_looks(engine, lambda it: move(it, [row.id], row.asset, because("pinned")))
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}


def test_what_is_met_while_it_looks_is_another_with_the_symbol(engine: Engine) -> None:
    acme(engine)
    third = quote("third", "acm", "Road Runner")
    while_it_looks(engine, lambda it: _learn(it, "coingecko", {key_of(third): third}, {}))
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"], "road-runner": ["third"]}


def test_many_are_merged_in_bites_between_which_others_have_their_turn(engine: Engine) -> None:
    for source, name in (("coinpaprika", "Acme"), ("coingecko", "Acme Rockets")):
        resolve(engine, source, *(quote(f"{n}", f"ACM{n}", f"{name} {n}") for n in range(2 * BITE + 1)))
    rematch_assets(engine, {})
    rows = ask(engine, "SELECT xmin, count(*) FROM decisions WHERE decided_by = 'second_look' GROUP BY 1 ORDER BY 2")
    assert [row.count for row in rows] == [1, BITE, BITE]


def test_each_merger_is_logged_with_the_change_that_can_be_undone(engine: Engine) -> None:
    acme(engine)
    with capture_logs() as logs:
        rematch_assets(engine, {})
    [logged] = [line for line in logs if line["event"] == "assets_merged"]
    undo(engine, uuid.UUID(logged["change"]))
    assert assets(engine) == {"acme": ["acm-1"], "acme-rockets": ["second"]}
