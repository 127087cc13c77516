"""Detect text with one record per line, without parsing it as CSV.

Use this only for encodings compatible with ASCII.
"""

from __future__ import annotations


def has_record_per_line(text: bytes, delimiter: str) -> bool:
    """Return whether each line of the text is certainly one record."""
    if not text or not has_plain_line_ends(text):
        return False
    return b'"' not in text or remove_quoted(text, delimiter) is not None


def has_plain_line_ends(text: bytes) -> bool:
    """Return whether each line end is a newline, or a carriage return with a newline."""
    return b"\r" not in text or text.count(b"\r") == text.count(b"\r\n")


def remove_quoted(text: bytes, delimiter: str) -> bytes | None:
    """Return the text without its quoted cells; None if a cell may be quoted only in part, or on several lines."""
    parts = text.split(b'"')
    unquoted, quoted = parts[::2], parts[1::2]
    separator = delimiter.encode()
    bytes_before_quotes = {part[-1:] for part in unquoted[:-1]}
    bytes_after_quotes = {part[:1] for part in unquoted[1:]}
    # An empty part lies between two quotes, which mean one quote in the cell. A single byte cannot be compared with a
    # delimiter of several bytes.
    well_formed = (
        len(parts) % 2 == 1
        and len(separator) == 1
        and bytes_before_quotes <= {b"", separator, b"\n"}
        and bytes_after_quotes <= {b"", separator, b"\n", b"\r"}
        and b"\n" not in b"".join(quoted)
    )
    return b"".join(unquoted) if well_formed else None


def has_longer_line(text: bytes, max_bytes: int) -> bool:
    """Return whether a line, including its line end, has more than `max_bytes`. The text must end with a line end."""
    end = 0
    while end < len(text):
        next_end = text.rfind(b"\n", end, end + max_bytes)
        if next_end < 0:
            return True
        end = next_end + 1
    return False
