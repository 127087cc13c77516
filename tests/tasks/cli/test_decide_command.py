"""Test that `python -m tasks decide` makes and undoes decisions, and reports errors in one line."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from settings import Settings, get_settings
from store.engine import make_engine
from tasks.cli.decide_command import main
from tasks.identity.decisions import decision_lock
from tests.tasks.assets import add_uniswap_and_universe, assets, query, state


@pytest.fixture(autouse=True)
def two_assets(engine: Engine) -> None:
    add_uniswap_and_universe(engine)


@pytest.mark.usefixtures("process_settings")
def test_the_command_makes_a_decision_and_undoes_it(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(engine)
    assert main(["split", "uniswap", "coinpaprika:uni-uniswap", "--reason", "it is so", "--by", "somebody"]) == 0
    assert assets(engine)["uniswap-uni"] == ["uni-uniswap"] * 2
    output = capsys.readouterr().out
    assert "The listings now belong to uniswap-uni." in output
    change = output.split("change ")[1].split(".")[0]
    assert f'with `undo {change} --reason "…"` in place of `split …`, or send POST /decisions/{change}/undo' in output
    assert main(["undo", change, "--reason", "or not"]) == 0
    assert state(engine)[: len(before)] == before
    assert main(["merge", "nothing", "uniswap", "--reason", "it is so"]) == 1
    assert capsys.readouterr().err == "There is no asset 'nothing'.\n"
    [row, *_] = query(engine, "SELECT DISTINCT decided_by FROM decisions WHERE method = 'split'")
    assert row.decided_by == "cli:somebody"


def test_the_command_reports_that_postgres_is_down(
    process_settings: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process_settings.setenv("DATABASE_URL", "postgresql://kasparro:secret@127.0.0.1:1/kasparro")
    get_settings.cache_clear()
    assert main(["merge", "universe", "uniswap", "--reason", "it is so"]) == 1
    assert capsys.readouterr().err == "Nothing was changed: the connection to Postgres broke, or none was available.\n"


@pytest.mark.usefixtures("process_settings")
def test_the_command_fails_if_another_decision_holds_the_lock(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = make_engine(settings.database_url, "test")  # without timeouts, since the command waits longer than those
    with decision_lock(holder):
        assert main(["merge", "universe", "uniswap", "--reason", "it is so"]) == 1
    holder.dispose()
    assert capsys.readouterr().err == "Nothing was changed: Postgres reported lock_not_available (55P03).\n"


@pytest.mark.parametrize("listing", ["coingecko", ":bitcoin", "coingecko:"])
def test_a_listing_without_its_source_or_id_is_refused(listing: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["pin", "uniswap", listing, "--reason", "it is so"])
    assert end.value.code == 2
    assert f"expected source:id, such as coingecko:bitcoin, got {listing!r}" in capsys.readouterr().err
