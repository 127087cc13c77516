"""Test that the overrides file is read when a process starts, and that all its invalid lines are reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from settings import SettingsError
from tasks.identity.decisions import Override
from tasks.identity.overrides_file import read_overrides
from tests.processes import Process, until
from tests.tasks.assets import UNISWAP


def test_the_file_assigns_listings_to_assets(tmp_path: Path) -> None:
    file = tmp_path / "overrides.csv"
    file.write_text('\ufeffsource,source_asset_id,asset,reason\r\ncoinpaprika,uni-uniswap,uniswap,"checked, twice"\r\n')
    assert read_overrides(file) == {UNISWAP: Override("uniswap", "checked, twice")}


def test_all_invalid_lines_of_the_file_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "overrides.csv"
    lines = ["coinpaprka,a,b,c", "coinpaprika,,UPPER,c", "coinpaprika,a,b,c", "coinpaprika,a,b,c", "coinpaprika,a"]
    file.write_text("\n".join(["source,source_asset_id,asset,reason", *lines]))
    with pytest.raises(SettingsError) as error:
        read_overrides(file)
    assert [line.removeprefix(str(file)) for line in str(error.value).splitlines()] == [
        "OVERRIDES:",
        ", line 2: there is no source 'coinpaprka'; did you mean 'coinpaprika'?",
        ", line 3: source_asset_id: expected the source's own id for the asset, got none",
        ", line 3: asset: expected a slug, such as bitcoin, got 'UPPER'",
        ", line 5: the listing 'a' of coinpaprika is already on an earlier line",
        ", line 6: expected 4 cells",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"source,asset\n", "line 1: expected the header source,source_asset_id,asset,reason"),
        (b'source,source_asset_id,asset,reason\ncoinpaprika,a,b,"open\n', "unexpected end of data"),
    ],
    ids=["missing", "not UTF-8", "header", "quote"],
)
def test_a_file_in_another_format_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "overrides.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        read_overrides(file)


@pytest.mark.parametrize("role", ["worker", "control"])
def test_a_process_exits_and_reports_an_invalid_line_of_the_file(
    start: Callable[..., Process], tmp_path: Path, role: str
) -> None:
    file = tmp_path / "overrides.csv"
    file.write_text("source,source_asset_id,asset,reason\ncoinpaprika,a\n")
    process = start(role, OVERRIDES=str(file))
    process.wait(20)
    assert process.log.read_text() == f"OVERRIDES:\n{file}, line 2: expected 4 cells\n"


def test_beat_does_not_read_the_file(start: Callable[..., Process], tmp_path: Path) -> None:
    process = start("beat", OVERRIDES=str(tmp_path / "nothing"))
    until(lambda: "slot_requested" in process.log.read_text())
