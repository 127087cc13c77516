"""What a set of CSV files declares of itself, and its rows as unified records by it. Nothing is guessed; pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

from sources.contract import Reject, TerminalError
from sources.record import KEY_FIELDS, Quote

SUFFIXES: Mapping[str, int] = {"K": 3, "M": 6, "B": 9, "T": 12}
"""The usual letters behind a number, and the powers of ten that they stand for."""

EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Microseconds in a unit of each kind of time that counts from 1970."""

FIELDS = frozenset(field.name for field in fields(Quote))
ASCII = bytes(range(128))
COUNTED = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?", re.ASCII)
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


class Unreadable(Exception):
    """A cell is not what its file set declares: (code, what was expected)."""


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """Files of one format below CSV_DIR. Where a file matches several sets, the first declared has it.

    pattern:    path below CSV_DIR; `*`, `?` and `[…]` stay within one folder.
    columns:    the record's field to the column it is in.
    constants:  the record's field to a value that every row has.
    templates:  the record's text field to a text with `{…}` for a column, or for a named group of `path`.
    path:       regular expression that the whole of a file's path matches.
    currencies: quote currency to its own `columns`, where one row has several prices; each makes an item.
    header:     True: the first record with anything in it; or the names, where the file has none.
    skip_lines: lines before the header.
    encoding:   utf-8, with or without byte order mark; utf-16, which has one; any other that keeps ASCII as it is.
    decimal, thousands: the signs in a number. A number that has others is refused.
    suffixes:   letters behind a number to powers of ten.
    nulls:      cells that mean unknown.
    times:      how observed_at is written, tried in this order: `iso`, `epoch_s`, `epoch_ms`, `epoch_us`, or a format
                of strptime's. timezone: of times that do not say theirs.
    """

    pattern: str
    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    currencies: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    header: bool | Sequence[str] = True
    skip_lines: int = 0
    encoding: str = "utf-8"
    delimiter: str = ","
    decimal: str = "."
    thousands: str = ""
    suffixes: Mapping[str, int] = field(default_factory=dict)
    nulls: Iterable[str] = ("",)
    times: Sequence[str] = ("iso",)
    timezone: tzinfo = UTC

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoding", _encoding(self.encoding))
        object.__setattr__(self, "nulls", frozenset(self.nulls))
        shared = [*self.columns, *self.constants, *self.templates, *(["quote_currency"] if self.currencies else [])]
        for declared in (shared, *([*shared, *own] for own in self.currencies.values())):
            if wrong := {name for name in declared if name not in FIELDS or declared.count(name) > 1}:
                raise ValueError(
                    f"{self.pattern}: no field of the record, or declared twice: {', '.join(sorted(wrong))}"
                )
        if self.header is False or isinstance(self.header, str):
            raise ValueError(f"{self.pattern}: header must be True or the names of the columns")

    def matches(self, file: str) -> bool:
        parts, globs = file.split("/"), self.pattern.split("/")
        return len(parts) == len(globs) and all(map(fnmatchcase, parts, globs))

    def check_header(self, header: Sequence[str], file: str) -> None:
        """Raise TerminalError where a declared column is missing, or there twice."""
        present = ascii(list(header))
        present = present if len(present) <= 500 else f"{present[:500]}…"
        if missing := sorted(self.named - set(header)):
            raise TerminalError(
                f"{file}: lacks the columns {missing}; it has {present}. Declare what it has, or its encoding, "
                "delimiter and lines to skip.",
                code="columns_missing",
            )
        if twice := sorted(name for name in self.named if header.count(name) > 1):
            raise TerminalError(
                f"{file}: has the columns {twice} more than once, among {present}", code="columns_ambiguous"
            )

    @cached_property
    def named(self) -> set[str]:
        """The columns that the record needs."""
        filled = {name for text in self.templates.values() for name in PLACEHOLDER.findall(text)}
        own = {column for columns in self.currencies.values() for column in columns.values()}
        return {*self.columns.values(), *own, *filled} - set(re.compile(self.path).groupindex)

    def record(self, file: str, row: Mapping[str, str], currency: str | None) -> dict[str, Any]:
        """The unified record, by its field names, of a row by its column names. Raises Reject for unreadable cells."""
        record = dict(self.constants)
        reasons = []
        for name, column, read in self._readers[currency]:
            try:
                record[name] = read(row[column].strip())
            except Unreadable as error:
                code, expected = error.args
                reasons.append(
                    {"field": name, "code": code, "detail": f"expected {expected}, got {_shown(row[column])}"}
                )
        if reasons:
            raise Reject.because(reasons)
        for name, text in self.templates.items():
            record[name] = self._filled(text, {**row, **self.path_groups(file)})
        if currency:
            record["quote_currency"] = currency
        return record

    @cached_property
    def _readers(self) -> dict[str | None, list[tuple[str, str, Callable[[str], Any]]]]:
        """By currency: the record's field, its column, and what makes a value of a cell."""
        sides: Mapping[Any, Mapping[str, str]] = self.currencies or {None: {}}
        return {
            currency: [(name, column, self._reader(name)) for name, column in {**self.columns, **own}.items()]
            for currency, own in sides.items()
        }

    def _reader(self, name: str) -> Callable[[str], Any]:
        if name in KEY_FIELDS:
            return lambda cell: "" if cell in self.nulls else cell
        if name == "observed_at":
            return self.time
        if self.decimal == "." and not self.thousands and not self.suffixes:
            return partial(self._plain_number, percent=name == "change_24h_pct")
        return partial(self._number, percent=name == "change_24h_pct")

    def _plain_number(self, cell: str, percent: bool) -> str | None:
        """The cell as it is: the record judges it."""
        if cell in self.nulls:
            return None
        return cell.removesuffix("%") if percent else cell

    def _number(self, cell: str, percent: bool) -> str | None:
        """The same number in plain or exponent notation, exactly."""
        if cell in self.nulls:
            return None
        written = self._written_number.fullmatch(cell.removesuffix("%") if percent else cell)
        if not written:
            raise Unreadable("not_a_number", f"a number such as {self._example}")
        sign, whole, decimals, only_decimals, power, suffix = written.groups()
        digits = sign + (whole.replace(self.thousands, "") if whole else "0")
        if fraction := decimals or only_decimals:
            digits += f".{fraction}"
        power = self.suffixes[suffix] if suffix else power
        return f"{digits}E{power}" if power else digits

    @cached_property
    def _written_number(self) -> re.Pattern[str]:
        grouped = rf"\d{{1,3}}(?:{re.escape(self.thousands)}\d{{3}})+|" if self.thousands else ""
        decimal = re.escape(self.decimal)
        digits = rf"(?:({grouped}\d+)(?:{decimal}(\d*))?|{decimal}(\d+))"
        suffixes = "|".join(re.escape(suffix) for suffix in sorted(self.suffixes, key=len, reverse=True))
        return re.compile(rf"([+-]?){digits}(?:[eE]([+-]?\d{{1,4}})|({suffixes or '(?!)'}))?", re.ASCII)

    @cached_property
    def _example(self) -> str:
        suffixes = f" or 1{self.decimal}5{next(iter(self.suffixes))}" if self.suffixes else ""
        return f"1{self.thousands}234{self.decimal}5{suffixes}"

    def time(self, cell: str) -> datetime:
        """The time that a cell states, with its offset; raises Unreadable."""
        for written in self.times:
            try:
                at = _at(cell, written)
            except (ValueError, OverflowError):
                continue
            return at if at.tzinfo else self._in_timezone(at)
        raise Unreadable("not_a_time", f"a time as {' or '.join(self.times)}")

    def _in_timezone(self, at: datetime) -> datetime:
        early, late = (at.replace(tzinfo=self.timezone, fold=fold) for fold in (0, 1))
        if early.utcoffset() != late.utcoffset():
            raise Unreadable("not_a_time", f"a time that exists once in {self.timezone}")
        return early

    def _filled(self, text: str, values: Mapping[str, str]) -> str:
        """The template with its values; nothing at all if one of them is unknown."""
        found = {name: values[name].strip() for name in PLACEHOLDER.findall(text)}
        if any(value in self.nulls for value in found.values()):
            return ""
        return PLACEHOLDER.sub(lambda placeholder: found[placeholder[1]], text)

    def path_groups(self, file: str) -> Mapping[str, str]:
        found = re.fullmatch(self.path, file) if self.path else None
        return found.groupdict("") if found else dict.fromkeys(re.compile(self.path).groupindex, "")


def _at(cell: str, written: str) -> datetime:
    """Raises ValueError or OverflowError."""
    if written == "iso":
        return datetime.fromisoformat(cell)
    if written not in EPOCHS:
        return datetime.strptime(cell, written)  # noqa: DTZ007 — the caller gives it the declared time zone
    if not COUNTED.fullmatch(cell):
        raise ValueError
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(Decimal(cell) * EPOCHS[written]))


def _encoding(name: str) -> str:
    """Its one spelling; refuses what lines cannot be told apart in."""
    normal = codecs.lookup(name).name
    if normal in ("utf-16", "utf-16-le", "utf-16-be"):
        return normal
    if ASCII.decode(normal, "replace") != ASCII.decode():
        raise ValueError(f"encoding {name}: only utf-16 and what keeps ASCII as it is can be read; convert the files")
    return "utf-8" if normal == "utf-8-sig" else normal


def _shown(cell: str) -> str:
    shown = ascii(cell)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
