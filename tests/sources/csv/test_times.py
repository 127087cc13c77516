"""Test that times are read exactly as declared, and that formats which strptime ignores or guesses are refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from sources.contract import DeclarationError
from sources.csv.times import FORMATS, KINDS, REFUSED, find_ambiguity, find_format_error, parse_time
from tests.sources.csv_folder import daily_files


@pytest.mark.parametrize(
    ("time_format", "reason"),
    [
        ("%Y-%m-%d %H:%M:%S %Z", "%Z: the name of a time zone is read and ignored"),
        ("epoch_ns", "no time has it; expected iso, epoch_s, epoch_ms, epoch_us, or a format for datetime.strptime"),
        ("YYYY-MM-DD", "no time has it"),
        ("%y-%m-%d", "%y: the century of a year with two digits is a guess"),
        ("%c", "%c: its meaning depends on the locale"),
        ("%x", "%x: its meaning depends on the locale"),
        ("%Y-%m-%d %X", "%X: its meaning depends on the locale"),
        ("%s", "%s: strptime cannot read it; use epoch_s"),
        ("%Y-%-m-%d", "%-: strptime does not know it"),
        ("%Y-%m-%d%", "%: a % ends the format"),
        ("%Y-%m-%d %H:%M %p", "%p: it is ignored without %I"),
        ("%Y-%m-%d %p", "%p: it is ignored without %I"),
        ("%Y-%m-%d %I:%M", "%I: an hour from 1 to 12 needs %p"),
        ("%Y-%m-%d %M", "%M: the minute is of no use without the hour"),
        ("%Y-%m-%d %H %S", "%S: the second is of no use without the minute"),
        ("%Y-%m-%d %H:%M.%f", "%f: the fraction is of no use without the second"),
        ("%d.%m. %H:%M", "%d %m is no date"),
        ("%H:%M", "nothing is no date"),
        ("%Y-%d", "%Y %d is no date"),
        ("%j", "%j is no date"),
        ("%Y-%m-%j", "%Y %m %j is no date"),
        ("%Y-%U", "%Y %U is no date"),
        ("%Y-%m-%d %W", "%Y %m %d %W is no date"),
        ("%G-%V", "%G %V is no date"),
        ("%Y-%V-%u", "%Y %V %u is no date"),
        ("%Y-%m %H:%M", "%Y %m is no date"),
        ("%Y-%m-%d %b", "%m and %b both set the month; keep one"),
        ("%Y-%m-%d %d", "%d and %d both set the day; keep one"),
        ("%Y-%m-%d %H %I %p", "%H and %I both set the hour; keep one"),
    ],
)
def test_a_format_that_is_ignored_or_guessed_is_refused(time_format: str, reason: str) -> None:
    error = find_format_error(time_format)
    assert error is not None
    assert error.startswith(reason)
    with pytest.raises(DeclarationError, match=re.escape(f"times has the format {time_format!r}: {reason}")):
        daily_files(times=(time_format,))


@pytest.mark.parametrize(
    ("time_format", "cell", "expected"),
    [
        ("%Y-%m-%d", "2024-02-03", "2024-02-03 00:00"),
        ("%Y-%m", "2024-02", "2024-02-01 00:00"),
        ("%Y", "2024", "2024-01-01 00:00"),
        ("%Y-%j", "2024-034", "2024-02-03 00:00"),
        ("%G-W%V-%u", "2024-W05-6", "2024-02-03 00:00"),
        ("%Y %U %w", "2024 04 6", "2024-02-03 00:00"),
        ("%Y%m%d", "20240203", "2024-02-03 00:00"),
        ("%Y%m%d%H%M%S%f", "20240203040506789", "2024-02-03 04:05"),
        ("%Y%m%d", "2024203", None),
        ("%d%m%Y", "322024", None),
        ("%d.%m.%Y", "3.2.2024", "2024-02-03 00:00"),
        ("%a, %d %b %Y %H:%M", "Sat, 03 Feb 2024 04:05", "2024-02-03 04:05"),
        ("%a, %d %b %Y %H:%M", "Sun, 03 Feb 2024 04:05", None),
        ("%m/%d/%Y %I:%M %p", "02/03/2024 12:05 AM", "2024-02-03 00:05"),
        ("%d %%%m %Y", "03 %02 2024", "2024-02-03 00:00"),
    ],
)
def test_every_part_of_an_accepted_format_is_heeded(time_format: str, cell: str, expected: str | None) -> None:
    assert find_format_error(time_format) is None
    try:
        read = f"{parse_time(cell, time_format):%Y-%m-%d %H:%M}"
    except ValueError:
        read = None
    assert read == expected


def test_every_directive_of_strptime_is_accepted_or_refused_with_a_reason() -> None:
    for directive in "aAbBcdfGHIjmMpSuUVwWxXyYzZ%":
        assert directive in KINDS or directive in REFUSED
        datetime.now(UTC).strftime(f"%{directive}")
    assert not KINDS.keys() & REFUSED.keys()
    assert "strptime" in FORMATS


@pytest.mark.parametrize(
    ("formats", "reason"),
    [
        (("%d/%m/%Y", "%m/%d/%Y"), "'%d/%m/%Y' would read 02/03/2024, which fits '%m/%d/%Y', as 2024-03-02 00:00:00"),
        (("epoch_ms", "epoch_s"), "'epoch_ms' would read 1706933106, which fits 'epoch_s', as 1970-01-20"),
        (("epoch_s", "%Y%m%d"), "'epoch_s' would read 20240203"),
        (("epoch_s", "epoch_ms"), None),
        (("iso", "%Y%m%d", "%d-%m-%Y"), None),
        (("%Y-%m-%d", "%Y-%m-%d %H:%M"), None),
    ],
)
def test_formats_that_read_one_text_as_two_times_are_refused(formats: tuple[str, ...], reason: str | None) -> None:
    error = find_ambiguity(formats)
    assert (error or "").startswith(reason or "")
    assert (error is None) == (reason is None)
