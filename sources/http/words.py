"""Quote the first words of a body, for error messages. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser

MAX_WORDS_CHARS = 300
"""Maximum number of characters that a message quotes."""

MAX_WORDS_BYTES = 64 * 1024
"""Number of bytes that are searched for words. The page of a firewall starts with scripts and styles."""

MAX_SECRET_CHARS = 4096
"""The end of a body that was cut may be the first part of a secret, which nothing would hide."""

_CHARSET = re.compile(r"charset\s*=\s*\"?([A-Za-z0-9._:-]+)", re.IGNORECASE)
_MARKUP = re.compile(r"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_BINARY_SHARE = 0.3


def quote_words(body: bytes, content_type: str = "", hide: Callable[[str], str] = lambda text: text) -> str:
    """Return the first words of a body in quotation marks, or a description of a body without words.

    HTML is reduced to the text that a browser shows. Control characters are made visible. hide: removes secrets.
    """
    if not body.strip():
        return "an empty body"
    text = _decode(body[:MAX_WORDS_BYTES], content_type)
    if len(body) >= MAX_WORDS_BYTES:
        text = text[:-MAX_SECRET_CHARS]
    if _is_binary(text):
        return "a body that is not text"
    # Hide secrets before and after: tags and character references may be inside a secret.
    text = hide(text)
    is_html = "html" in content_type.lower() or _MARKUP.match(text) is not None
    words = " ".join((hide(_html_text(text)) if is_html else text).split())
    if is_html and not words:
        return "HTML without text"
    shown = _visible(words)
    shown = shown if len(shown) <= MAX_WORDS_CHARS else shown[:MAX_WORDS_CHARS] + "…"
    return f"HTML with the text “{shown}”" if is_html else f"“{shown}”"


def _decode(body: bytes, content_type: str) -> str:
    declared = _CHARSET.search(content_type)
    # A byte order mark and the positions of NUL bytes show UTF-16 and UTF-32, whatever the header says.
    encoding: str = json.detect_encoding(body)
    if encoding.startswith("utf-8") and declared:
        encoding = declared[1]
    try:
        return body.decode(encoding, "replace")
    except (LookupError, ValueError):  # The declared encoding is unknown, or not one of text.
        return body.decode("utf-8", "replace")


def _is_binary(text: str) -> bool:
    strange = sum(char == "\ufffd" or (unicodedata.category(char) == "Cc" and not char.isspace()) for char in text)
    return strange > _BINARY_SHARE * len(text)


def _visible(text: str) -> str:
    """Return the text with each invisible character as an escape, such as \\x1b or \\u200b."""
    return "".join(
        char if char == " " or unicodedata.category(char)[0] not in "CZ" else ascii(char)[1:-1] for char in text
    )


class _Text(HTMLParser):
    """Collect the text of HTML outside of elements that a browser does not show."""

    HIDDEN = ("script", "style", "template", "svg", "iframe")
    INLINE = (
        *("a", "abbr", "b", "bdi", "bdo", "code", "em", "font", "i", "kbd", "mark", "q", "s", "small", "span"),
        *("strong", "sub", "sup", "u", "var", "wbr"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._separate(tag)
        if tag in self.HIDDEN:
            self._hidden.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        self._separate(tag)
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]

    def _separate(self, tag: str) -> None:
        if tag not in self.INLINE:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _html_text(text: str) -> str:
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)
