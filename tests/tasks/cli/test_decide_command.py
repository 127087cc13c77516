"""`python -m tasks decide` decides, undoes, and reports why it could not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from settings import Settings, get_settings
from tasks.cli.decide_command import main
from tasks.identity.decisions import decision_lock
from tests.tasks.assets import add_uniswap_and_universe, assets, query, state


@pytest.fixture(autouse=True)
def two_assets(engine: Engine) -> None:
    add_uniswap_and_universe(engine)


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of the command, with the test's database."""
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    get_settings.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.mark.usefixtures("environment")
def test_the_command_decides_and_undoes(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(engine)
    assert main(["split", "uniswap", "coinpaprika:uni-uniswap", "--reason", "it is so", "--by", "somebody"]) == 0
    assert assets(engine)["uniswap-uni"] == ["uni-uniswap"] * 2
    output = capsys.readouterr().out
    assert "They are of uniswap-uni now." in output
    assert main(["undo", output.split("change ")[1].split(".")[0], "--reason", "or not"]) == 0
    assert state(engine)[: len(before)] == before
    assert main(["merge", "nothing", "uniswap", "--reason", "it is so"]) == 1
    assert capsys.readouterr().err == "There is no asset 'nothing'.\n"
    [row, *_] = query(engine, "SELECT DISTINCT decided_by FROM decisions WHERE method = 'split'")
    assert row.decided_by == "cli:somebody"


def test_the_command_reports_that_postgres_is_unreachable(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("DATABASE_URL", "postgresql://kasparro:secret@127.0.0.1:1/kasparro")
    get_settings.cache_clear()
    assert main(["merge", "universe", "uniswap", "--reason", "it is so"]) == 1
    assert capsys.readouterr().err == "It was not decided: the connection to Postgres broke, or none was to be had.\n"


@pytest.mark.usefixtures("environment")
def test_the_command_gives_up_while_another_holds_the_lock(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    with decision_lock(engine):
        assert main(["merge", "universe", "uniswap", "--reason", "it is so"]) == 1
    assert capsys.readouterr().err == "It was not decided: Postgres reported lock_not_available (55P03).\n"
