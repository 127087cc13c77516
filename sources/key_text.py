"""Clean the texts that identify a listing: remove characters that nobody sees, and marks of a file format. Pure.

The texts of a key are joined over years and sources by equality. A character that a reader cannot see, or that a
spreadsheet added, would silently start a second series of the same coin.
"""

from __future__ import annotations

import re
import unicodedata

_TAGS = "\U000e0020-\U000e007e"
_TAGGED_FLAG = f"\U0001f3f4[{_TAGS}]+\U000e007f"

_INVISIBLE = re.compile(
    # A flag such as Scotland's is spelled with invisible tags. Without them, it would be another flag.
    rf"({_TAGGED_FLAG})|"
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Format characters (Unicode's Cf) and other characters without a shape: byte order marks, characters of no width,
directions, soft hyphens, fillers."""

_CONTEXTUAL_RUN = re.compile("[\ufe00-\ufe0f\u200c\u200d]+")
"""Variation selectors and joiners. They are invisible, but some scripts and emoji need them."""

_USUAL_RUN = re.compile("([\ufe00-\ufe0f]?)([\u200c\u200d]?)")

_BLANK_RUN = re.compile("[\t\n\v\f\r\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000]+")
"""Blanks other than the space. Two texts that differ only in the kind of a blank look the same."""

_NONCHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_BROKEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffd{_NONCHARACTERS}]")
"""Characters that show that a text was decoded or cut wrongly. Nobody knows which characters they stand for."""

VIRAMA = 9
"""The combining class of viramas."""

_QUOTATION_MARKS = ('""', "''", "\u201c\u201d", "\u2018\u2019", "\u201e\u201c", "\u00ab\u00bb")


def clean_key_text(text: str) -> str:
    """Return a text of a key without invisible characters, wrappings, and blanks at its ends; in Unicode's form NFC.

    Cleaning a cleaned text does not change it.
    """
    if not text.isascii():
        text = _without_stray_marks(_INVISIBLE.sub(r"\1", _BLANK_RUN.sub(" ", text)))
    text = _unwrapped(text.strip())
    if not text.isprintable():
        text = _BLANK_RUN.sub(" ", text)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_broken(text: str) -> bool:
    """Return whether a cleaned text has control characters, or characters that stand for lost ones."""
    return not (text.isascii() and text.isprintable()) and _BROKEN.search(text) is not None


def _without_stray_marks(text: str) -> str:
    """Remove variation selectors and joiners, except where they change what a reader sees."""

    def needed(run: re.Match[str]) -> str:
        before, after = text[: run.start()][-1:], text[run.end() :][:1]
        usual = _USUAL_RUN.fullmatch(run[0])
        selector, joiner = usual.groups() if usual else ("", "")
        return (selector if _takes_selector(before, after) else "") + (joiner if _are_joined(before, after) else "")

    return _CONTEXTUAL_RUN.sub(needed, text)


def _takes_selector(before: str, after: str) -> bool:
    return _is_emoji(before) or after == "\u20e3"  # The frame of a keycap.


def _are_joined(before: str, after: str) -> bool:
    """Return whether writing needs a joiner here: within emoji, between Arabic letters, and after a virama."""
    if unicodedata.category(after or " ")[0] not in "LMS" or not before:
        return False
    is_arabic = unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL"
    # A virama is the sign of a missing vowel in Indic scripts.
    return is_arabic or (_is_emoji(before) and _is_emoji(after)) or unicodedata.combining(before) == VIRAMA


def _is_emoji(char: str) -> bool:
    return char != "" and unicodedata.category(char) in ("So", "Sk")


def _unwrapped(text: str) -> str:
    """Return a text without the quotation marks around the whole, and without a spreadsheet's marks of a text."""
    while (inner := _without_wrapping(text).strip()) != text:
        text = inner
    return text


def _without_wrapping(text: str) -> str:
    quoted = text[1:] if text.startswith('="') else text
    if len(quoted) > 1 and quoted[0] + quoted[-1] in _QUOTATION_MARKS:
        inner = quoted[1:-1]
        if quoted[0] == '"' and '"' in inner:
            if inner[0] == inner[-1] == '"':
                return inner
            # A quotation mark within a quoted cell is doubled. Other marks belong to the text: "A" and "B".
            return inner.replace('""', '"') if '"' not in inner.replace('""', "") else text
        if quoted[0] not in inner and quoted[-1] not in inner:
            return inner
    # Spreadsheets, and exports for them, mark a cell as text with an apostrophe.
    return text[1:] if text.startswith("'") and len(text) > 1 else text
