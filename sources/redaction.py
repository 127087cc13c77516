"""Remove secrets from texts, in each form in which a program may repeat them."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape
from html.entities import codepoint2name
from urllib.parse import quote

from settings import secrets_in

HIDDEN = "[hidden]"

MIN_ENCODED_CHARS = 10
"""Minimum length of an encoded form. A shorter one would occur by chance."""

MAX_ADDED_SECRETS = 100
"""Maximum number of secrets that `add` remembers, such as tokens. The oldest ones have expired."""

MAX_PATTERN_CHARS = 256
"""A longer secret is a token of letters, digits and a few marks, which are not escaped one by one."""

MAX_SCANNED_BYTES = 64 * 1024
"""Bodies up to this size are searched for unusual escapes, too. An error that repeats a request is far smaller."""

ESCAPES = re.compile(r"[\\%&]")
"""The characters that start an escape sequence in JSON, a repr, a URL or HTML."""


class Redactor:
    """Find and hide secrets: as they are, escaped as in JSON, URLs, HTML or a repr, in base64 and in hex."""

    def __init__(self, secrets: Iterable[str]):
        self._secrets = dict.fromkeys(secret for secret in secrets if secret)
        self._added: dict[str, None] = {}
        self._prepare()

    def add(self, *secrets: str) -> None:
        """Also hide these secrets, which the environment does not contain."""
        unknown = [secret for secret in secrets if secret and secret not in self._secrets | self._added]
        if unknown:
            self._added = dict.fromkeys([*self._added, *unknown][-MAX_ADDED_SECRETS:])
            self._prepare()

    def hide(self, text: str) -> str:
        """Return the text with each form of each secret replaced by `[hidden]`."""
        if len(text) < self._shortest:
            return text
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        if ESCAPES.search(text):
            for pattern in self._patterns:
                text = pattern.sub(HIDDEN, text)
        return text

    def is_in(self, data: bytes) -> bool:
        """Return whether bytes contain a secret. Unusual escapes are found in the first MAX_SCANNED_BYTES only."""
        if any(form in data for form in self._byte_forms):
            return True
        text = data[:MAX_SCANNED_BYTES].decode("utf-8", "replace")
        return ESCAPES.search(text) is not None and any(pattern.search(text) for pattern in self._patterns)

    def _prepare(self) -> None:
        secrets = sorted(self._secrets | self._added, key=len, reverse=True)
        # The form of a whole header contains the forms of its parts, so the longest form comes first.
        self._forms = sorted({form for secret in secrets for form in _usual_forms(secret)}, key=len, reverse=True)
        self._byte_forms = [form.encode("utf-8", "surrogatepass") for form in self._forms]
        self._patterns = [
            re.compile("".join(map(_character, secret))) for secret in secrets if len(secret) <= MAX_PATTERN_CHARS
        ]
        self._shortest = min(map(len, secrets), default=0)


@cache
def process_redactor() -> Redactor:
    """Return the redactor of this process, for the secrets of its environment and those that were added."""
    return Redactor(secrets_in(os.environ))


def _usual_forms(secret: str) -> Iterator[str]:
    """Yield the secret as it is, in the usual escapes, in hex, and in base64."""
    yield from (secret, repr(secret)[1:-1], ascii(secret)[1:-1], escape(secret))
    yield from (json.dumps(secret)[1:-1], json.dumps(secret)[1:-1].replace("/", r"\/"))
    data = secret.encode("utf-8", "surrogatepass")
    yield from (quote(data), quote(data, safe=""))
    # A secret in the name of a host may arrive in lower case.
    encoded = [secret.lower(), data.hex(), data.hex().upper(), *_base64_forms(data)]
    yield from (form for form in encoded if len(form) >= MIN_ENCODED_CHARS)


def _base64_forms(data: bytes) -> Iterator[str]:
    """Yield the part of the base64 form that is the same whatever comes before and after, for each alignment."""
    for offset in range(3):
        start, end = (0, 2, 3)[offset], (None, -3, -2)[(offset + len(data)) % 3]
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(b"\0" * offset + data).decode()[start:end]


def _character(char: str) -> str:
    """Return a pattern for one character: as it is, or escaped once or several times.

    Each alternative starts with a literal, so that a search skips other characters quickly.
    """
    code, data = ord(char), char.encode("utf-8", "surrogatepass")
    plain = re.escape(char)
    percent = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in data)
    units = char.encode("utf-16-be", "surrogatepass").hex()
    unicode = r"\\+".join(f"u(?i:{units[index : index + 4]})" for index in range(0, len(units), 4))
    in_bytes = r"\\+".join(f"x(?i:{byte:02x})" for byte in data)
    latin = [rf"x(?i:{code:02x})"] if 128 <= code < 256 else []
    numeric = rf"&(?:amp;)*#(?:0*{code}|[xX]0*(?i:{code:x}));"
    named = rf"|&(?:amp;)*{codepoint2name[code]};" if code in codepoint2name else ""
    return rf"(?:{plain}|\\\\*(?:{'|'.join([plain, unicode, in_bytes, *latin])})|{percent}|{numeric}{named})"
