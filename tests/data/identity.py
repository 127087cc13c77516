"""Invent two coin lists, and pairs of which it is settled whether they are one coin: the input of `make score`.

The coins of a list are alike, or unlike, as real ones are; nothing here knows the rules that match them.
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
NO_NAME_IN_COMMON = "renamed at one of them, id and all; only the chain shows it"
NO_SYMBOL_IN_COMMON = "the symbol was changed at one of them"


@dataclass
class Lists:
    """The coins of both upstreams, and the pairs between them."""

    names: Names = field(default_factory=lambda: Names("identity"))
    coinpaprika: list[dict[str, Any]] = field(default_factory=list)
    coingecko: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, str]] = field(default_factory=list)

    def paprika(self, name: str, symbol: str, id_: str = "", *, active: bool = True) -> dict[str, Any]:
        """Add a coin to CoinPaprika's list, whose ids begin with the symbol."""
        id_ = id_ or f"{slug(symbol)}-{slug(name)}"
        coin = {"id": id_, "name": name, "symbol": symbol, "rank": len(self.coinpaprika) + 1, "is_active": active}
        self.coinpaprika.append(coin)
        return coin

    def gecko(self, name: str, symbol: str, id_: str = "") -> dict[str, Any]:
        """Add a coin to CoinGecko's list, whose symbols are in lower case."""
        coin = {"id": id_ or slug(name), "symbol": symbol.lower(), "name": name}
        self.coingecko.append(coin)
        return coin

    def settle(self, ours: dict[str, Any], theirs: dict[str, Any] | None, kind: str, evidence: str) -> None:
        """Add a pair. theirs: None if the coin has no counterpart."""
        label = "same" if kind in ("easy", "renamed") else "different"
        other = theirs or {"id": "", "name": ""}
        row = (ours["id"], other["id"], ours["symbol"], ours["name"], other["name"], label, kind, evidence)
        self.pairs.append(dict(zip(COLUMNS, row, strict=True)))

    def coin(self) -> tuple[str, str]:
        """Return a new name and a symbol for it."""
        name = self.names.word()
        return name, self.names.symbol(name)

    def same(self, name: str, symbol: str, kind: str = "easy", evidence: str = "same name") -> dict[str, Any]:
        """Add a coin that both list under one name. Return CoinPaprika's."""
        ours = self.paprika(name, symbol)
        self.settle(ours, self.gecko(name, symbol), kind, evidence)
        return ours

    def trap(self, name: str, symbol: str, other: str, other_symbol: str, kind: str, evidence: str) -> None:
        """Add a coin that both list, and another one of CoinGecko's that is not that coin."""
        ours = self.same(name, symbol)
        self.settle(ours, self.gecko(other, other_symbol), kind, evidence)


def easy(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    spelled = (name, name.upper(), f"{name[:3]}é{name[3:]}", f"{name} {lists.names.word()}")[number % 4]
    theirs = {1: name, 2: f"{name[:3]}e{name[3:]}"}.get(number % 4, spelled)
    ours = lists.paprika(spelled, symbol, active=number % 20 != 7)
    lists.settle(ours, lists.gecko(theirs, symbol), "easy", "same name, but for case and accents")


def generic_word(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    word = ("Token", "Protocol", "Network", "Finance", "Coin")[number % 5]
    names = [name, f"{name} {word}"][:: 1 if number % 2 else -1]
    lists.settle(lists.paprika(names[0], symbol), lists.gecko(names[1], symbol), "renamed", f"{word} is left out")


def joined_words(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    spelled = f"{name} {lists.names.word()}"
    ours, theirs = lists.paprika(spelled, symbol), lists.gecko(spelled.replace(" ", "-" if number % 2 else ""), symbol)
    lists.settle(ours, theirs, "renamed", "written with another sign between the words, or none")


def symbol_in_brackets(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    lists.settle(
        lists.paprika(name, symbol), lists.gecko(f"{name} ({symbol})", symbol), "renamed", "the symbol is repeated"
    )


def id_of_before(lists: Lists, number: int) -> None:
    old, symbol = lists.coin()
    ours = lists.paprika(lists.names.word(), symbol, f"{slug(symbol)}-{slug(old)}")
    lists.settle(ours, lists.gecko(old, symbol), "renamed", "CoinPaprika's id keeps the name of before")


def misspelled(lists: Lists, number: int) -> None:
    name = lists.names.long_word()
    symbol = lists.names.symbol(name)
    place = 4 + number % 5
    theirs = lists.gecko(name[:place] + name[place + 1 :], symbol)
    lists.settle(lists.paprika(name, symbol), theirs, "renamed", "a letter is left out of a long name")


def longer_name(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    theirs = lists.gecko(f"{name} {lists.names.word()}", symbol)
    lists.settle(lists.paprika(name, symbol), theirs, "renamed", "CoinGecko has a second word")


def cut_symbol(lists: Lists, number: int) -> None:
    name = lists.names.long_word()
    ours, theirs = lists.paprika(name, name.upper()), lists.gecko(name, name[:10])
    lists.settle(ours, theirs, "renamed", "CoinGecko cuts the symbol off")


def other_name(lists: Lists, number: int) -> None:
    old, symbol = lists.coin()
    ours, theirs = lists.paprika(lists.names.word(), symbol), lists.gecko(old, symbol)
    lists.settle(ours, theirs, "renamed", NO_NAME_IN_COMMON)


def other_symbol(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    theirs = lists.gecko(name, lists.names.symbol(name))
    lists.settle(lists.paprika(name, symbol), theirs, "renamed", NO_SYMBOL_IN_COMMON)


def same_symbol(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    lists.trap(name, symbol, lists.names.word(), symbol, "homonym", "same symbol, other coin")


def same_symbol_alone(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.paprika(name, symbol), lists.gecko(lists.names.word(), symbol)
    lists.settle(ours, None, "none", "not listed by CoinGecko")
    lists.settle(ours, theirs, "homonym", "same symbol, other coin; each upstream lists one of them")


def same_name(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours = lists.same(name, symbol)
    theirs = lists.gecko(name, lists.names.symbol(name), f"{slug(name)}-2")
    lists.settle(ours, theirs, "homonym", "same name, other symbol, other coin")


def same_generic_words(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    word = ("Finance", "Network", "Protocol")[number % 3]
    ours, theirs = lists.paprika(f"{name} {word}", symbol), lists.gecko(f"{lists.names.word()} {word}", symbol)
    lists.settle(ours, None, "none", "not listed by CoinGecko")
    lists.settle(ours, theirs, "homonym", f"same symbol; {word} is all that the names share")


def short_names(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.paprika(name[:5], symbol), lists.gecko(name[:4] + "x", symbol)
    lists.settle(ours, None, "none", "not listed by CoinGecko")
    lists.settle(ours, theirs, "homonym", "same symbol; the short names differ in their last letter")


def three_of_one_symbol(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    names = [name, lists.names.word(), lists.names.word()]
    ours, theirs = [lists.paprika(it, symbol) for it in names], [lists.gecko(it, symbol) for it in names]
    for place in range(3):
        lists.settle(ours[place], theirs[place], "easy", "same name; the symbol is shared by three coins")
        lists.settle(ours[place], theirs[place - 1], "homonym", "same symbol, other coin of three")


def wrapped(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    other, own = (("Wrapped", f"W{symbol}"), ("Wrapped", symbol), ("Staked", symbol))[number % 3]
    lists.trap(name, symbol, f"{other} {name}", own, "wrapped", "a token that stands for the coin")


def wrapped_alone(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.paprika(f"Wrapped {name}", symbol), lists.gecko(name, symbol)
    lists.settle(ours, None, "none", "not listed by CoinGecko")
    lists.settle(ours, theirs, "wrapped", "CoinPaprika lists the token, CoinGecko the coin that it stands for")


def bridged(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    other = ("{} (Wormhole)", "{} Bridged", "{} BEP20", "Bridged {} (Uthveil)", "{} [OLD]")[number % 5].format(name)
    lists.trap(name, symbol, other, symbol, "bridged", "the coin on another chain, at its own price")


def bridged_alone(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    ours, theirs = lists.paprika(name, symbol), lists.gecko(f"{name} (Wormhole)", symbol)
    lists.settle(ours, None, "none", "not listed by CoinGecko")
    lists.settle(ours, theirs, "bridged", "CoinGecko lists the bridged token alone")


def fork(lists: Lists, number: int) -> None:
    name, symbol = lists.coin()
    other = f"{name} {('Classic', 'V2', 'Cash', 'Gold', 'New')[number % 5]}"
    lists.trap(name, symbol, other, symbol, "fork", "another chain since the fork")


def not_listed(lists: Lists, number: int) -> None:
    ours = lists.paprika(*lists.coin(), active=number % 3 != 1)
    lists.settle(ours, None, "none", "not listed by CoinGecko")


def not_settled(lists: Lists, number: int) -> None:
    """Coins that are matched as well, but not scored: most of a real list."""
    name, symbol = lists.coin()
    if number % 3 != 1:
        lists.paprika(name, symbol)
    if number % 3 != 2:
        lists.gecko(name, symbol)


CASES: tuple[tuple[Callable[[Lists, int], None], int], ...] = (
    *((easy, 100), (generic_word, 10), (joined_words, 6), (symbol_in_brackets, 4), (id_of_before, 6)),
    *((misspelled, 5), (longer_name, 5), (cut_symbol, 3), (other_name, 4), (other_symbol, 3)),
    *((same_symbol, 20), (same_symbol_alone, 10), (same_name, 8), (same_generic_words, 6)),
    *((short_names, 5), (three_of_one_symbol, 3), (wrapped, 12), (wrapped_alone, 4), (bridged, 15)),
    *((bridged_alone, 4), (fork, 15), (not_listed, 12), (not_settled, 90)),
)
"""What makes a pair, and how many of it there are."""


def slug(text: str) -> str:
    """Return a text as it stands in an id."""
    plain = text.lower().replace("é", "e")
    return "-".join("".join(char if char.isalnum() else " " for char in plain).split())


def invent() -> Lists:
    lists = Lists()
    for case, count in CASES:
        for number in range(count):
            case(lists, number)
    lists.paprika("", "EMPTY", "empty-name")
    lists.gecko("Without a symbol", "", "without-a-symbol")
    lists.names.random.shuffle(lists.coingecko)
    return lists


def files() -> dict[str, bytes]:
    """Return the content of each file, by its name."""
    lists, pairs = invent(), io.StringIO()
    writer = csv.DictWriter(pairs, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lists.pairs)
    texts = (_a_coin_a_line(lists.coinpaprika), _a_coin_a_line(lists.coingecko), pairs.getvalue())
    return {name: text.encode() for name, text in zip(FILES, texts, strict=True)}


def _a_coin_a_line(coins: list[dict[str, Any]]) -> str:
    lines = (json.dumps(coin, ensure_ascii=False, separators=(",", ":")) for coin in coins)
    return "[" + ",\n".join(lines) + "]\n"
