"""Test that `python -m tasks replay` requests a replay with its parameters, and reports errors in one line."""

from __future__ import annotations

from typing import Any

import pytest

from settings import get_settings
from tasks.cli.replay_command import main
from tests.tasks.conftest import Bench

DIGEST = "0" * 64


@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ([], {}),
        (["--rejected"], {"rejected": True}),
        (["--code", "in_future"], {"rejected": True, "code": "in_future"}),
        (["--field", "price"], {"rejected": True, "field": "price"}),
        (
            ["--from", "2026-01-31T12:00:00Z", "--to", "2026-02-01"],
            {"fetched_from": "2026-01-31T12:00:00+00:00", "fetched_to": "2026-02-01T00:00:00+00:00"},
        ),
        (["--body", DIGEST], {"body": DIGEST}),
    ],
)
def test_repeating_the_command_requests_only_one_replay(
    bench: Bench, capsys: pytest.CaptureFixture[str], arguments: list[str], parameters: dict[str, Any]
) -> None:
    outputs: list[str] = []
    for _ in range(2):
        assert main(["coingecko", *arguments]) == 0
        outputs.append(capsys.readouterr().out)
    [run] = bench.rows("SELECT id, kind, parameters, requested_by FROM runs")
    assert (run["kind"], run["parameters"], run["requested_by"]) == ("replay", parameters, "cli")
    assert outputs == [f"Run {run['id']} was requested.\n", f"Run {run['id']} already exists and is unfinished.\n"]


@pytest.mark.usefixtures("process_settings")
def test_the_error_for_a_conflicting_replay_names_the_run(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coingecko"]) == 0
    capsys.readouterr()
    assert main(["coingecko", "--rejected"]) == 1
    run = bench.one("SELECT id FROM runs")
    assert capsys.readouterr().err == f"coingecko has an unfinished run with other parameters: {run}.\n"


@pytest.mark.parametrize("arguments", [["coingecko"], ["coingecko", "--diff"]])
def test_the_command_reports_that_postgres_is_down(
    process_settings: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    process_settings.setenv("DATABASE_URL", "postgresql://kasparro:secret@127.0.0.1:1/kasparro")
    get_settings.cache_clear()
    assert main(arguments) == 1
    assert capsys.readouterr().err == "Postgres: the connection to Postgres broke, or none was available\n"


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("--from", "yesterday", "expected a time such as"), ("--body", "ABC", "expected a SHA-256 of 64 lower-case")],
)
def test_a_malformed_argument_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str, expected: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["coingecko", option, value])
    assert end.value.code == 2
    assert expected in (error := capsys.readouterr().err)
    assert f"got {value!r}" in error
