"""Parse times in declared formats. Refuse a format of which `strptime` would ignore or guess a part. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from itertools import combinations, pairwise

EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""The formats of Unix times, and the number of microseconds in their units."""

EPOCH_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?", re.ASCII)
DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)
SAMPLE = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)

FORMATS = "iso, epoch_s, epoch_ms, epoch_us, or a format for datetime.strptime, such as %Y-%m-%d"

REFUSED = {
    "Z": "the name of a time zone is read and ignored; write the name itself, such as UTC, and declare `timezone`",
    "y": "the century of a year with two digits is a guess; convert the files to years with four digits",
    "c": "its meaning depends on the locale; spell out the directives, such as %Y-%m-%d %H:%M:%S",
    "x": "its meaning depends on the locale; spell out the directives, such as %Y-%m-%d",
    "X": "its meaning depends on the locale; spell out the directives, such as %H:%M:%S",
    "s": "strptime cannot read it; use epoch_s",
    "D": "not every version of Python can read it; use %m/%d/%Y",
    "F": "not every version of Python can read it; use %Y-%m-%d",
    "T": "not every version of Python can read it; use %H:%M:%S",
    "R": "not every version of Python can read it; use %H:%M",
    "": "a % ends the format; write %% for a percent sign",
}
"""Directives that strptime ignores, guesses or does not know, each with the reason and the next step."""

KINDS = {
    **{"Y": "year", "G": "ISO year", "m": "month", "b": "month", "B": "month", "d": "day", "j": "day of the year"},
    **{"U": "week", "W": "week", "V": "ISO week", "a": "weekday", "A": "weekday", "w": "weekday", "u": "weekday"},
    **{"H": "hour", "I": "hour", "p": "half of the day", "M": "minute", "S": "second", "f": "fraction"},
    **{"z": "offset", "%": ""},
}
"""The known directives, each with what it sets."""

DATE_KINDS = {"year", "ISO year", "month", "day", "day of the year", "week", "ISO week", "weekday"}
DAYS: tuple[set[str], ...] = (
    {"year", "month", "day"},
    {"year", "month", "day", "weekday"},
    {"year", "day of the year"},
    {"year", "day of the year", "weekday"},
    {"year", "week", "weekday"},
    {"ISO year", "ISO week", "weekday"},
)
DATES = (*DAYS, {"year"}, {"year", "month"})
"""What may make a date. Without a month or a day, the first one is meant."""

WIDTHS = {"Y": 4, "G": 4, "j": 3, "w": 1, "u": 1, **dict.fromkeys("mdHIMSUWV", 2)}
"""The number of digits of a directive that strptime may also read from fewer digits."""


def parse_time(cell: str, time_format: str) -> datetime:
    """Parse a time; raise ValueError or OverflowError if it is not in the format."""
    if time_format == "iso":
        return datetime.fromisoformat(cell)
    if time_format not in EPOCHS:
        return _parse_strictly(cell, time_format)
    if not EPOCH_NUMBER.fullmatch(cell):
        raise ValueError
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(Decimal(cell) * EPOCHS[time_format]))


def _parse_strictly(cell: str, time_format: str) -> datetime:
    at = datetime.strptime(cell, time_format)  # noqa: DTZ007 — the caller adds the declared time zone
    widths, has_weekday = _strictness(time_format)
    if widths and not widths.fullmatch(cell):
        raise ValueError
    # strptime reads the name of a weekday, but does not compare it with the date.
    if has_weekday and time.strptime(cell, time_format).tm_wday != at.weekday():
        raise ValueError
    return at


@cache
def _strictness(time_format: str) -> tuple[re.Pattern[str] | None, bool]:
    """Return a pattern for numbers without a separator, such as %Y%m%d, and whether the format has a weekday.

    strptime reads 2024111 as %Y%m%d, although it could be two days. The pattern allows only full widths.
    """
    tokens = [token for token in re.split(r"(%.)", time_format, flags=re.DOTALL) if token]
    is_number = [(token[0] == "%" and token[1:] in WIDTHS) or token == "%f" for token in tokens]
    pattern = ""
    for at, token in enumerate(tokens):
        is_joined = is_number[at] and (is_number[at - 1 : at] == [True] or is_number[at + 1 : at + 2] == [True])
        if is_joined:
            pattern += rf"\d{{{WIDTHS[token[1:]]}}}" if token != "%f" else r"\d{1,6}"
        else:
            pattern += ".+?" if token[0] == "%" and token != "%%" else _literal(token)
    has_joined = any(first and second for first, second in pairwise(is_number))
    has_weekday = any(KINDS.get(directive) == "weekday" for directive in DIRECTIVE.findall(time_format))
    return re.compile(pattern, re.DOTALL) if has_joined else None, has_weekday


def _literal(text: str) -> str:
    """Return the pattern of a text between directives. strptime accepts any white space for white space."""
    return r"\s+".join(map(re.escape, re.split(r"\s+", text.replace("%%", "%"))))


def find_format_error(time_format: str) -> str | None:
    """Return what is wrong with a format, or None."""
    if time_format == "iso" or time_format in EPOCHS:
        return None
    directives = DIRECTIVE.findall(time_format)
    if not directives:
        close = get_close_matches(time_format, ("iso", *EPOCHS), n=1)
        return f"no time has it; expected {FORMATS}{f'; did you mean {close[0]!r}?' if close else ''}"
    for directive in directives:
        if reason := REFUSED.get(directive):
            return f"%{directive}: {reason}"
        if directive not in KINDS:
            return f"%{directive}: strptime does not know it; expected {', '.join(f'%{name}' for name in KINDS)}"
    return next(_contradictions(directives), None)


def _contradictions(directives: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the directives of a format together."""
    by_kind: dict[str, list[str]] = {}
    for directive in directives:
        by_kind.setdefault(KINDS[directive], []).append(f"%{directive}")
    for kind, names in by_kind.items():
        if kind and len(names) > 1:
            yield f"{' and '.join(names)} both set the {kind}; keep one"
    kinds = set(by_kind)
    if "half of the day" in kinds and "%I" not in by_kind.get("hour", []):
        yield "%p: it is ignored without %I; use %I for hours from 1 to 12"
    if "%I" in by_kind.get("hour", []) and "half of the day" not in kinds:
        yield "%I: an hour from 1 to 12 needs %p; use %H for hours from 0 to 23"
    for part, whole in (("minute", "hour"), ("second", "minute"), ("fraction", "second")):
        if part in kinds and whole not in kinds:
            yield f"{by_kind[part][0]}: the {part} is of no use without the {whole}"
    if kinds & DATE_KINDS not in (DAYS if "hour" in kinds else DATES):
        date = [name for kind in by_kind if kind in DATE_KINDS for name in by_kind[kind]]
        yield (
            f"{' '.join(date) or 'nothing'} is no date; "
            "a date needs %Y, a month (%m or %b) and %d, or %Y and %j, or %G, %V and %u"
        )


def find_ambiguity(formats: Sequence[str]) -> str | None:
    """Return why an earlier format would read the times of a later one as other times, or None."""
    for first, second in combinations(formats, 2):
        text = _sample(second)
        try:
            meant, read = (_aware(parse_time(text, time_format)) for time_format in (second, first))
        except (ValueError, OverflowError):
            continue
        if meant != read:
            return (
                f"{first!r} would read {text}, which fits {second!r}, as {read:%Y-%m-%d %H:%M:%S}; "
                "declare a file set for each"
            )
    return None


def _sample(time_format: str) -> str:
    if time_format == "iso":
        return SAMPLE.isoformat()
    if time_format in EPOCHS:
        return str(int(SAMPLE.timestamp()) * 1_000_000 // EPOCHS[time_format])
    return SAMPLE.strftime(time_format)


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)
