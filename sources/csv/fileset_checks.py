"""Check the declaration of a file set, so that each accepted one can be read, by columns and row by row. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from typing import Any

from marshmallow import ValidationError

from sources.csv.times import FORMATS, find_ambiguity, find_format_error
from sources.declarations import Rule, check_members, shown, wrong
from sources.record import KEY_FIELDS, Quote, Record

FIELDS = tuple(field.name for field in fields(Quote))
REQUIRED_FIELDS = (*KEY_FIELDS, "observed_at", "price")
ASCII = bytes(range(128))
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)
MAX_POWER = 30

NOT_FOR_FILES = ("idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined")
"""Codecs of Python that are no encodings of files."""


def _is_mark(text: str) -> bool:
    """Return whether a text is one character that cannot be part of a plain number."""
    return len(text) == 1 and not text.isalnum() and text not in '+-%"\r\n\0'


def _has_offset(zone: tzinfo) -> bool:
    try:
        return isinstance(zone.utcoffset(datetime(2024, 1, 1)), timedelta)  # noqa: DTZ001 — as tzinfo requires
    except Exception:  # noqa: BLE001 — it is the author's own class
        return False


RULES = {
    "pattern": Rule(
        "a pattern of paths below CSV_DIR, such as closes/*.csv",
        lambda pattern: bool(pattern) and all(part not in ("", ".", "..") for part in pattern.split("/")),
    ),
    "header": Rule(
        'True, or the names of the columns, such as ("day", "price")',
        lambda header: header is True or (header is not False and len(header) > 0),
    ),
    "skip_lines": Rule("a whole number of 0 or more", lambda lines: lines >= 0),
    "delimiter": Rule(
        "one character that is no letter, digit, quote or line end, such as ;",
        lambda text: len(text) == 1 and not text.isalnum() and text not in '"\r\n\0',
    ),
    "decimal": Rule("one character, such as a comma", lambda text: _is_mark(text) and not text.isspace()),
    "thousands": Rule("one character, such as a comma, or empty", lambda text: not text or _is_mark(text)),
    "suffixes": Rule(
        f"a mapping of suffixes without digits to powers of ten from -{MAX_POWER} to {MAX_POWER}, such as {{'K': 3}}",
        lambda powers: all(map(_is_suffix, powers)) and all(abs(power) <= MAX_POWER for power in powers.values()),
    ),
    "nulls": Rule(
        'a list of texts without white space at their ends, such as ("", "null")',
        lambda texts: all(text == text.strip() for text in texts),
    ),
    "times": Rule(f"a list of formats: {FORMATS}", lambda formats: len(formats) > 0),
    "timezone": Rule('a time zone, such as ZoneInfo("Europe/Berlin")', _has_offset),
}


def _is_suffix(text: str) -> bool:
    return text == text.strip() != "" and not any(char.isdigit() or char in "+-.," for char in text)


def check_file_set(declared: Any) -> None:
    """Raise DeclarationError if a FileSet is inconsistent, or no row could be read by it."""
    subject = f"file set {shown(declared.pattern)}"
    check_members(declared, subject, RULES)
    for find_errors in (_encoding_errors, _number_errors, _time_errors, _field_errors, _path_errors, _column_errors):
        for detail in find_errors(declared):
            raise wrong(subject, detail)


def canonical_encoding(name: str) -> str:
    """Return the canonical name of an encoding, or the name itself if it is unknown."""
    try:
        normal = codecs.lookup(name).name
    except (LookupError, ValueError):
        return name
    return "utf-8" if normal == "utf-8-sig" else normal


def _encoding_errors(declared: Any) -> Iterator[str]:
    name = canonical_encoding(declared.encoding)
    if name in ("utf-16", "utf-16-le", "utf-16-be"):
        return
    try:
        is_readable = ASCII.decode(name, "replace") == ASCII.decode() and name not in NOT_FOR_FILES
    except (LookupError, ValueError):
        is_readable = False
    if not is_readable:
        yield (
            f"encoding must be utf-8, utf-16, or an encoding that is compatible with ASCII, such as latin-1, "
            f"but is {declared.encoding!r}"
        )
        return
    for member in ("delimiter", "decimal", "thousands"):
        try:
            getattr(declared, member).encode(name)
        except UnicodeError:
            yield f"{member} must be a character of {name}, but is {getattr(declared, member)!r}"


def _number_errors(declared: Any) -> Iterator[str]:
    if declared.thousands == declared.decimal:
        yield f"thousands and decimal must differ, but both are {declared.decimal!r}"
    for mark in filter(None, (declared.decimal, declared.thousands)):
        if suffix := next((suffix for suffix in declared.suffixes if mark in suffix), None):
            yield f"suffixes must not contain the separator {mark!r}, but one is {suffix!r}"


def _time_errors(declared: Any) -> Iterator[str]:
    for time_format in declared.times:
        if error := find_format_error(time_format):
            yield f"times has the format {time_format!r}: {error}"
    if error := find_ambiguity(declared.times):
        yield f"times is ambiguous: {error}"


def _field_errors(declared: Any) -> Iterator[str]:
    in_currency = ["quote_currency"] if declared.currencies else []
    shared = [*declared.columns, *declared.constants, *declared.templates, *in_currency]
    currencies: Mapping[str, Mapping[str, str]] = declared.currencies or {"": {}}
    for currency, own in currencies.items():
        names = [*shared, *own]
        for name in names:
            if name not in FIELDS:
                close = get_close_matches(name, FIELDS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(FIELDS)}"
                yield f"the unified record has no field {name!r}; {hint}"
            if names.count(name) > 1:
                yield f"the field {name!r} is declared twice; declare it once"
        if missing := [name for name in REQUIRED_FIELDS if name not in names]:
            where = f" of the currency {currency}" if currency else ""
            yield f"each quote{where} needs {', '.join(missing)}; declare each in columns, constants or templates"
    yield from _constant_errors({"quote_currency": name} for name in declared.currencies)
    yield from _constant_errors([declared.constants])


def _constant_errors(constants: Any) -> Iterator[str]:
    """Yield an error for each constant that the record would reject in every row."""
    record = Record(FAR_FUTURE)
    for values in constants:
        for name, value in values.items():
            try:
                record.fields[name].deserialize(value)
            except ValidationError as error:
                [message] = error.messages if isinstance(error.messages, list) else [error.messages]
                detail = message["detail"] if isinstance(message, Mapping) else message
                yield f"the constant {name} would be rejected in every row: {detail}"


def _path_errors(declared: Any) -> Iterator[str]:
    try:
        re.compile(declared.path)
    except re.error as error:
        yield f"path must be a regular expression, but {declared.path!r} is none: {error}"
    for name, template in declared.templates.items():
        if not PLACEHOLDER.search(template):
            yield f"the template {name} needs a column in braces, such as {{coin}}, but is {template!r}; use constants"
        if re.search(r"[{}]", PLACEHOLDER.sub("", template)):
            yield f"the template {name} has a brace without a name, and is {template!r}"


def _column_errors(declared: Any) -> Iterator[str]:
    """Yield an error for each declared column that is not in a declared header."""
    if isinstance(declared.header, Sequence):
        header = list(declared.header)
        if duplicates := [name for name in declared.required_columns if header.count(name) > 1]:
            yield f"header must have each column once, but has {sorted(duplicates)} more often"
        if missing := sorted(declared.required_columns - set(header)):
            yield f"header lacks the columns {missing}; it has {header}"
