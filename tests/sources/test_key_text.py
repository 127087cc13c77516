"""Test that texts of keys lose what nobody sees, and keep everything else."""

from __future__ import annotations

import json
import unicodedata
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from sources.key_text import clean_key_text, is_broken
from tests.processes import ROOT

SHARED = ROOT.parent / "shared"
LISTS = (
    "identity/coingecko_list.2022-02-23.json",
    "identity/coinpaprika_coins.2022-06-23.json",
    "real-data/coingecko/coins_list.2021.json",
    "real-data/coinpaprika/coins.2019-09.json",
)
HEART_ON_FIRE, SCOTLAND = (
    "\u2764\ufe0f\u200d\U0001f525",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
)


@pytest.mark.parametrize(
    "damaged",
    [
        "\ufeffSPT",
        "SP\u200bT",
        "S\u00adP\u2060T\u200e",
        "S\u200dP\u200cT\ufe0f",
        "\u3164SPT\u2800",
        "\u00a0 SPT\u2009",
        '"SPT"',
        '""SPT""',
        '"\ufeffSPT "',
        '="SPT"',
        '"=""SPT"""',
        "'SPT",
        "'SPT'",
        "\u201cSPT\u201d",
    ],
)
def test_what_nobody_sees_and_what_wraps_the_whole_is_removed(damaged: str) -> None:
    assert clean_key_text(damaged) == "SPT"
    assert clean_key_text(f" {damaged}\t") == "SPT"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("e\u0301", "\u00e9"),
        ("Space\u00a0Text", "Space Text"),
        ("Space\tText", "Space Text"),
        ("Two\r\nLines", "Two Lines"),
        ('"a""b"', 'a"b'),
        ('""', ""),
        ("\u200b", ""),
    ],
)
def test_equal_looking_texts_become_equal(text: str, cleaned: str) -> None:
    assert clean_key_text(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "=A=",
        "BEN&JERRY'",
        'LOST ARK NFT "Official"',
        '"A" and "B"',
        "GETART  NFT",
        "\u2b50\ufe0f",
        HEART_ON_FIRE,
        SCOTLAND,
        "1\ufe0f\u20e3",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0915\u094d\u200d\u0937",
        "\u0600\u0661",
    ],
)
def test_what_belongs_to_a_text_is_kept(text: str) -> None:
    assert clean_key_text(text) == text
    assert not is_broken(text)


@pytest.mark.parametrize(
    "char", ["\x00", "\x01", "\x1f", "\x7f", "\x85", "\x93", chr(0xD800), "\ufffd", "\ufffe", "\U0010ffff"]
)
def test_control_characters_and_lost_characters_break_a_text(char: str) -> None:
    assert is_broken(clean_key_text(f"S{char}T"))


def test_no_format_character_without_a_shape_is_kept() -> None:
    kept = {chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"}
    kept = {char for char in kept if clean_key_text(f"a{char}b") != "ab"}
    # Signs that stand before Arabic and other digits, and the controls that arrange hieroglyphs.
    assert {unicodedata.name(char).split()[0] for char in kept} == {"ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN"}


@tried(max_examples=300, deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(["a", " ", '"', "=", "'", *"\u200b\u200c\u200d\ufe0f\u2800\u0915\u094d", HEART_ON_FIRE])
    ).map("".join)
)
def test_cleaning_a_cleaned_text_does_not_change_it(text: str) -> None:
    cleaned = clean_key_text(text)
    assert clean_key_text(cleaned) == cleaned == cleaned.strip()
    assert unicodedata.is_normalized("NFC", cleaned)


@pytest.mark.parametrize("file", LISTS)
def test_no_key_of_a_real_list_changes(file: str) -> None:
    if not (SHARED / file).is_file():
        pytest.skip(f"needs the file ../shared/{file}")
    coins: list[dict[str, Any]] = json.loads((SHARED / file).read_bytes())
    keys = set(chain.from_iterable((coin["id"], coin["symbol"], coin["name"]) for coin in coins))
    assert len(keys) > 5_000
    assert [key for key in keys if clean_key_text(key) != key.strip() or is_broken(key)] == []
