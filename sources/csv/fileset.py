"""Declare the format of a set of CSV files, and parse its rows as unified records. Formats are never guessed. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any

from sources.contract import Reject, TerminalError
from sources.csv.fileset_checks import PLACEHOLDER as PLACEHOLDER
from sources.csv.fileset_checks import canonical_encoding, check_file_set
from sources.csv.times import parse_time
from sources.record import KEY_FIELDS, UnreadableValue
from sources.record_rules import SIDE_FIELDS

SUFFIXES: Mapping[str, int] = {"K": 3, "M": 6, "B": 9, "T": 12}
"""The usual suffixes of numbers, and the powers of ten that they stand for."""


class Unreadable(Exception):
    """A cell is not in the declared format. Arguments: the reject code, and the expected format."""


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """The format of a set of CSV files below CSV_DIR. If several sets match a file, the first one applies.

    Raise DeclarationError if no row could be read by the declaration.

    pattern:    pattern of paths below CSV_DIR; `*`, `?` and `[…]` match within one folder or file name.
    columns:    maps a field of the unified record to the column with its values.
    constants:  maps a field to its value in every row.
    templates:  maps a text field to a template, where `{…}` stands for a column or a named group of `path`.
    path:       regular expression that matches the file's whole path.
    currencies: maps a quote currency to its `columns`, for rows with several prices. Each price is one item.
    header:     True if the first non-empty record is the header; otherwise the column names of a file without header.
    skip_lines: number of lines to skip before the header.
    encoding:   utf-8, with or without a byte order mark; utf-16, with a mark; utf-16-le; utf-16-be; or an encoding that
                is compatible with ASCII, such as latin-1.
    delimiter:  the character between cells.
    decimal:    the decimal separator.
    thousands:  the thousands separator; empty if numbers have none. A number with any other separator is rejected.
    suffixes:   maps a number's suffix to its power of ten; `SUFFIXES` has the usual ones.
    nulls:      texts of cells whose value is unknown.
    times:      the formats of `observed_at`, tried in order. Each is `iso`, `epoch_s`, `epoch_ms`, `epoch_us`, or
                a format for `datetime.strptime`.
    timezone:   the time zone of times without an offset.
    complete:   True if each file is complete as soon as it exists, for example because it is renamed into place. Only
                then may its last record lack a line end. Otherwise such a record waits, since it may be incomplete.
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
    complete: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.nulls, str):
            object.__setattr__(self, "nulls", frozenset(self.nulls))
        check_file_set(self)
        object.__setattr__(self, "encoding", canonical_encoding(self.encoding))

    def matches(self, file: str) -> bool:
        """Return whether the pattern matches the path of a file below CSV_DIR."""
        parts, globs = file.split("/"), self.pattern.split("/")
        return len(parts) == len(globs) and all(map(fnmatchcase, parts, globs))

    def check_header(self, header: Sequence[str], label: str) -> None:
        """Raise TerminalError if a declared column is missing or occurs twice. label: the source and the file."""
        columns = ascii(list(header))
        columns = columns if len(columns) <= 500 else f"{columns[:500]}…"
        if missing := sorted(self.required_columns - set(header)):
            raise TerminalError(
                f"{label}: its header lacks the columns {missing}; it has {columns}. Correct the declared "
                "columns, encoding, delimiter or skip_lines.",
                code="columns_missing",
            )
        if duplicates := sorted(name for name in self.required_columns if header.count(name) > 1):
            raise TerminalError(
                f"{label}: its header has the columns {duplicates} more than once: {columns}. Rename them, or declare "
                "the names in `header` and skip the file's own header with skip_lines.",
                code="columns_ambiguous",
            )

    @cached_property
    def required_columns(self) -> set[str]:
        """Return the columns that a record needs."""
        in_templates = {name for text in self.templates.values() for name in PLACEHOLDER.findall(text)}
        own = {column for columns in self.currencies.values() for column in columns.values()}
        return {*self.columns.values(), *own, *(in_templates - set(re.compile(self.path).groupindex))}

    def record(self, file: str, row: Mapping[str, str], currency: str | None) -> dict[str, Any]:
        """Return a row as the unified record; raise Reject with a reason for each unreadable cell that refuses the row.

        file:     path of the file below CSV_DIR.
        row:      the cells by column name.
        currency: one of `currencies`; None if none is declared.
        """
        record = dict(self.constants)
        reasons = []
        for name, column, read in self._readers[currency]:
            try:
                record[name] = read(row[column].strip())
            except Unreadable as error:
                code, expected = error.args
                detail = f"expected {expected}, got {_quoted(row[column])}"
                if name in SIDE_FIELDS:
                    record[name] = UnreadableValue(code, detail)
                else:
                    reasons.append({"field": name, "code": code, "detail": detail})
        for name, text in self.templates.items():
            record[name] = self._filled(text, file, row)
        if currency:
            record["quote_currency"] = currency
        if reasons:
            raise Reject.because(reasons, record)
        return record

    @cached_property
    def _readers(self) -> dict[str | None, list[tuple[str, str, Callable[[str], Any]]]]:
        """Return, by currency, each field with its column and the function that parses its cells."""
        columns_by_currency: Mapping[Any, Mapping[str, str]] = self.currencies or {None: {}}
        return {
            currency: [(name, column, self._reader(name)) for name, column in {**self.columns, **own}.items()]
            for currency, own in columns_by_currency.items()
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
        """Return the number without a percent sign, or None if it is unknown. The record validates it."""
        if cell in self.nulls:
            return None
        return cell.removesuffix("%") if percent else cell

    def _number(self, cell: str, percent: bool) -> str | None:
        """Convert the number to plain or exponent notation, without rounding."""
        if cell in self.nulls:
            return None
        match = self._number_pattern.fullmatch(cell.removesuffix("%") if percent else cell)
        if not match:
            raise Unreadable("not_a_number", f"a number such as {self._example}")
        sign, whole, decimals, only_decimals, power, suffix = match.groups()
        digits = sign + (whole.replace(self.thousands, "") if whole else "0")
        if fraction := decimals or only_decimals:
            digits += f".{fraction}"
        power = self.suffixes[suffix] if suffix else power
        return f"{digits}E{power}" if power else digits

    @cached_property
    def _number_pattern(self) -> re.Pattern[str]:
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
        """Parse a cell as an aware time; raise Unreadable if it is in none of the declared formats."""
        for time_format in self.times:
            try:
                at = parse_time(cell, time_format)
            except (ValueError, OverflowError):
                continue
            return at if at.tzinfo else self._in_timezone(at)
        raise Unreadable("not_a_time", f"a time in the format {' or '.join(self.times)}")

    def _in_timezone(self, at: datetime) -> datetime:
        early, late = (at.replace(tzinfo=self.timezone, fold=fold) for fold in (0, 1))
        if early.utcoffset() != late.utcoffset():
            raise Unreadable("not_a_time", f"a time that occurs exactly once in {self.timezone}")
        return early

    def _filled(self, text: str, file: str, row: Mapping[str, str]) -> str:
        """Fill in the template's placeholders. Return an empty text if a value is unknown."""
        groups = self.path_groups(file)
        # Read only the named cells, so that it can be observed which columns are used.
        replacements = {
            name: (groups[name] if name in groups else row[name]).strip() for name in PLACEHOLDER.findall(text)
        }
        if any(value in self.nulls for value in replacements.values()):
            return ""
        return PLACEHOLDER.sub(lambda placeholder: replacements[placeholder[1]], text)

    def path_groups(self, file: str) -> Mapping[str, str]:
        """Return the named groups of `path` for a file; empty texts if `path` does not match it."""
        match = re.fullmatch(self.path, file) if self.path else None
        return match.groupdict("") if match else dict.fromkeys(re.compile(self.path).groupindex, "")


def _quoted(cell: str) -> str:
    """Return a cell as text for messages, with at most 60 characters."""
    text = ascii(cell)
    return text if len(text) <= 60 else f"{text[:57]}…"
