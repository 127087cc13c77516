"""Invent coin names. The same seed gives the same names."""

from __future__ import annotations

import random
from collections.abc import Callable

START = "bra dor fen gil hov jas kel lum mor nix oda pry quo rul sev tol uth vey wob yar zin"
MIDDLE = "ba de fi go ka li mu na pe ri so ta ve xo"
END = "dan fex gor lin mar nel pos quil rith son tis vard wyn zel"


class Names:
    """A generator of names and symbols that returns each of them only once."""

    def __init__(self, seed: str):
        self.random = random.Random(seed)
        self._used: set[str] = set()

    def word(self) -> str:
        """Return a name of one word, such as "Kelsodan"."""
        return self._new(lambda: "".join(map(self._pick, (START, MIDDLE, END))).capitalize())

    def long_word(self) -> str:
        """Return a name of at least 13 letters. At this length, one extra or missing letter is a misspelling."""
        return self._new(lambda: "".join(map(self._pick, (START, MIDDLE, MIDDLE, START, MIDDLE, END))).capitalize())

    def symbol(self, name: str) -> str:
        """Return a symbol for a name: its first letter and three others."""
        letters = "".join(filter(str.isalpha, name.upper()))
        return self._new(lambda: letters[0] + "".join(self.random.choices(letters[1:] + "XQ", k=3)))

    def _pick(self, syllables: str) -> str:
        return self.random.choice(syllables.split())

    def _new(self, invent: Callable[[], str]) -> str:
        while (text := invent()) in self._used:
            continue
        self._used.add(text)
        return text
