"""Invent the input of `make score`: two coin lists, and pairs labeled as the same coin or different coins.

The coins resemble each other as real ones do. This module does not use the rules that match them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.data.names import Names

COLUMNS = ["coinpaprika_id", "coingecko_id", "symbol", "cp_name", "cg_name", "label", "kind", "evidence"]
FILES = ("coinpaprika_coins.synthetic.json", "coingecko_list.synthetic.json", "pairs.csv")
NO_NAME_IN_COMMON = "renamed by one upstream, including the id; only the chain identifies it"
NO_SYMBOL_IN_COMMON = "one upstream changed the symbol"


@dataclass
class Lists:
    """The coins of both upstreams, and the pairs between them."""

    names: Names = field(default_factory=lambda: Names("identity"))
    coinpaprika: list[dict[str, Any]] = field(default_factory=list)
    coingecko: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, str]] = field(default_factory=list)

    def add_coinpaprika(self, name: str, symbol: str, id_: str = "", *, active: bool = True) -> dict[str, Any]:
        """Add a coin to CoinPaprika's list. Its ids begin with the symbol."""
        id_ = id_ or f"{slug(symbol)}-{slug(name)}"
        coin = {"id": id_, "name": name, "symbol": symbol, "rank": len(self.coinpaprika) + 1, "is_active": active}
        self.coinpaprika.append(coin)
        return coin

    def add_coingecko(self, name: str, symbol: str, id_: str = "") -> dict[str, Any]:
        """Add a coin to CoinGecko's list. Its symbols are in lower case."""
        coin = {"id": id_ or slug(name), "symbol": symbol.lower(), "name": name}
        self.coingecko.append(coin)
        return coin

    def add_pair(self, ours: dict[str, Any], theirs: dict[str, Any] | None, kind: str, evidence: str) -> None:
        """Add a pair. theirs: None if the coin has no counterpart."""
        label = "same" if kind in ("easy", "renamed") else "different"
        other = theirs or {"id": "", "name": ""}
        row = (ours["id"], other["id"], ours["symbol"], ours["name"], other["name"], label, kind, evidence)
        self.pairs.append(dict(zip(COLUMNS, row, strict=True)))

    def coin(self) -> tuple[str, str]:
        """Return a new name and a symbol for it."""
        name = self.names.word()
        return name, self.names.symbol(name)

    def add_same(self, name: str, symbol: str, kind: str = "easy", evidence: str = "same name") -> dict[str, Any]:
        """Add a coin that both list under the same name. Return CoinPaprika's entry."""
        ours = self.add_coinpaprika(name, symbol)
        self.add_pair(ours, self.add_coingecko(name, symbol), kind, evidence)
        return ours

    def add_trap(self, name: str, symbol: str, other: str, other_symbol: str, kind: str, evidence: str) -> None:
        """Add a coin that both list, and a similar one that only CoinGecko lists."""
        ours = self.add_same(name, symbol)
        self.add_pair(ours, self.add_coingecko(other, other_symbol), kind, evidence)


def easy(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    spelled = (name, name.upper(), f"{name[:3]}é{name[3:]}", f"{name} {lists.names.word()}")[number % 4]
    theirs = {1: name, 2: f"{name[:3]}e{name[3:]}"}.get(number % 4, spelled)
    ours = lists.add_coinpaprika(spelled, symbol, active=number % 20 != 7)
    lists.add_pair(ours, lists.add_coingecko(theirs, symbol), "easy", "same name, except for case and accents")


def generic_word(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    word = ("Token", "Protocol", "Network", "Finance", "Coin")[number % 5]
    names = [name, f"{name} {word}"][:: 1 if number % 2 else -1]
    lists.add_pair(
        lists.add_coinpaprika(names[0], symbol),
        lists.add_coingecko(names[1], symbol),
        "renamed",
        f"one name lacks {word}",
    )


def joined_words(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    spelled = f"{name} {lists.names.word()}"
    ours, theirs = (
        lists.add_coinpaprika(spelled, symbol),
        lists.add_coingecko(spelled.replace(" ", "-" if number % 2 else ""), symbol),
    )
    lists.add_pair(ours, theirs, "renamed", "the words are joined, or separated by another character")


def symbol_in_brackets(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    lists.add_pair(
        lists.add_coinpaprika(name, symbol),
        lists.add_coingecko(f"{name} ({symbol})", symbol),
        "renamed",
        "the symbol is repeated",
    )


def former_id(lists: Lists, number: int) -> None:
    old, symbol = lists.coin()
    ours = lists.add_coinpaprika(lists.names.word(), symbol, f"{slug(symbol)}-{slug(old)}")
    lists.add_pair(ours, lists.add_coingecko(old, symbol), "renamed", "CoinPaprika's id contains the former name")


def misspelled(lists: Lists, number: int) -> None:
    name = lists.names.long_word()
    symbol = lists.names.symbol(name)
    index = 4 + number % 5
    theirs = lists.add_coingecko(name[:index] + name[index + 1 :], symbol)
    lists.add_pair(lists.add_coinpaprika(name, symbol), theirs, "renamed", "a long name lacks a letter")


def longer_name(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    theirs = lists.add_coingecko(f"{name} {lists.names.word()}", symbol)
    lists.add_pair(lists.add_coinpaprika(name, symbol), theirs, "renamed", "CoinGecko's name has a second word")


def cut_symbol(lists: Lists, number: int) -> None:
    name = lists.names.long_word()
    ours, theirs = lists.add_coinpaprika(name, name.upper()), lists.add_coingecko(name, name[:10])
    lists.add_pair(ours, theirs, "renamed", "CoinGecko truncates the symbol")


def other_name(lists: Lists, number: int) -> None:
    old, symbol = lists.coin()
    ours, theirs = lists.add_coinpaprika(lists.names.word(), symbol), lists.add_coingecko(old, symbol)
    lists.add_pair(ours, theirs, "renamed", NO_NAME_IN_COMMON)


def other_symbol(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    theirs = lists.add_coingecko(name, lists.names.symbol(name))
    lists.add_pair(lists.add_coinpaprika(name, symbol), theirs, "renamed", NO_SYMBOL_IN_COMMON)


def same_symbol(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    lists.add_trap(name, symbol, lists.names.word(), symbol, "homonym", "same symbol, different coin")


def same_symbol_alone(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.add_coinpaprika(name, symbol), lists.add_coingecko(lists.names.word(), symbol)
    lists.add_pair(ours, None, "none", "not listed by CoinGecko")
    lists.add_pair(ours, theirs, "homonym", "same symbol, different coin; each upstream lists one of them")


def same_name(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours = lists.add_same(name, symbol)
    theirs = lists.add_coingecko(name, lists.names.symbol(name), f"{slug(name)}-2")
    lists.add_pair(ours, theirs, "homonym", "same name, different symbol, different coin")


def same_generic_words(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    word = ("Finance", "Network", "Protocol")[number % 3]
    ours, theirs = (
        lists.add_coinpaprika(f"{name} {word}", symbol),
        lists.add_coingecko(f"{lists.names.word()} {word}", symbol),
    )
    lists.add_pair(ours, None, "none", "not listed by CoinGecko")
    lists.add_pair(ours, theirs, "homonym", f"same symbol; the names share only {word}")


def short_names(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.add_coinpaprika(name[:5], symbol), lists.add_coingecko(name[:4] + "x", symbol)
    lists.add_pair(ours, None, "none", "not listed by CoinGecko")
    lists.add_pair(ours, theirs, "homonym", "same symbol; the short names differ in their last letter")


def three_of_one_symbol(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    names = [name, lists.names.word(), lists.names.word()]
    ours, theirs = (
        [lists.add_coinpaprika(each, symbol) for each in names],
        [lists.add_coingecko(each, symbol) for each in names],
    )
    for index in range(3):
        lists.add_pair(ours[index], theirs[index], "easy", "same name; the symbol is shared by three coins")
        lists.add_pair(ours[index], theirs[index - 1], "homonym", "same symbol, a different one of three coins")


def wrapped(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    other, own = (("Wrapped", f"W{symbol}"), ("Wrapped", symbol), ("Staked", symbol))[number % 3]
    lists.add_trap(name, symbol, f"{other} {name}", own, "wrapped", "a token that represents the coin")


def wrapped_alone(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.add_coinpaprika(f"Wrapped {name}", symbol), lists.add_coingecko(name, symbol)
    lists.add_pair(ours, None, "none", "not listed by CoinGecko")
    lists.add_pair(ours, theirs, "wrapped", "CoinPaprika lists the token, CoinGecko the coin that it represents")


def bridged(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    other = ("{} (Wormhole)", "{} Bridged", "{} BEP20", "Bridged {} (Uthveil)", "{} [OLD]")[number % 5].format(name)
    lists.add_trap(name, symbol, other, symbol, "bridged", "the coin on another chain, at its own price")


def bridged_alone(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.add_coinpaprika(name, symbol), lists.add_coingecko(f"{name} (Wormhole)", symbol)
    lists.add_pair(ours, None, "none", "not listed by CoinGecko")
    lists.add_pair(ours, theirs, "bridged", "CoinGecko lists only the bridged token")


def fork(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    other = f"{name} {('Classic', 'V2', 'Cash', 'Gold', 'New')[number % 5]}"
    lists.add_trap(name, symbol, other, symbol, "fork", "a different chain since the fork")


def not_listed(lists: Lists, number: int) -> None:
    ours = lists.add_coinpaprika(*lists.coin(), active=number % 3 != 1)
    lists.add_pair(ours, None, "none", "not listed by CoinGecko")


def unlabeled(lists: Lists, number: int) -> None:
    """Add coins that are matched but not scored, like most coins of a real list."""
    name, symbol = lists.coin()
    if number % 3 != 1:
        lists.add_coinpaprika(name, symbol)
    if number % 3 != 2:
        lists.add_coingecko(name, symbol)


CASES: tuple[tuple[Callable[[Lists, int], None], int], ...] = (
    *((easy, 100), (generic_word, 10), (joined_words, 6), (symbol_in_brackets, 4), (former_id, 6)),
    *((misspelled, 5), (longer_name, 5), (cut_symbol, 3), (other_name, 4), (other_symbol, 3)),
    *((same_symbol, 20), (same_symbol_alone, 10), (same_name, 8), (same_generic_words, 6)),
    *((short_names, 5), (three_of_one_symbol, 3), (wrapped, 12), (wrapped_alone, 4), (bridged, 15)),
    *((bridged_alone, 4), (fork, 15), (not_listed, 12), (unlabeled, 90)),
)
"""The functions that add pairs, and the number of times that each is called."""


def slug(text: str) -> str:
    """Return a text in the format of an id."""
    plain = text.lower().replace("é", "e")
    return "-".join("".join(char if char.isalnum() else " " for char in plain).split())


def invent() -> Lists:
    lists = Lists()
    for case, count in CASES:
        for number in range(count):
            case(lists, number)
    lists.add_coinpaprika("", "EMPTY", "empty-name")
    lists.add_coingecko("Without a symbol", "", "without-a-symbol")
    lists.names.random.shuffle(lists.coingecko)
    return lists


def files() -> dict[str, bytes]:
    """Return the content of each file by name."""
    lists, pairs = invent(), io.StringIO()
    writer = csv.DictWriter(pairs, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lists.pairs)
    texts = (_one_coin_per_line(lists.coinpaprika), _one_coin_per_line(lists.coingecko), pairs.getvalue())
    return {name: text.encode() for name, text in zip(FILES, texts, strict=True)}


def _one_coin_per_line(coins: list[dict[str, Any]]) -> str:
    lines = (json.dumps(coin, ensure_ascii=False, separators=(",", ":")) for coin in coins)
    return "[" + ",\n".join(lines) + "]\n"
