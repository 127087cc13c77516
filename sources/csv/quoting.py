"""Recognize text in which each line is one record, without reading it as CSV. Only for encodings that keep ASCII."""

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
    """Return the text without its quoted cells; None unless each is certainly quoted as a whole, on one line."""
    parts = text.split(b'"')
    outside, inside = parts[::2], parts[1::2]
    separator = delimiter.encode()
    before, behind = {part[-1:] for part in outside[:-1]}, {part[:1] for part in outside[1:]}
    # An empty part is between two quotes, which stand for one quote in the cell. The last byte of a part cannot be
    # compared with a delimiter of several bytes.
    well_formed = (
        len(parts) % 2 == 1
        and len(separator) == 1
        and before <= {b"", separator, b"\n"}
        and behind <= {b"", separator, b"\n", b"\r"}
        and b"\n" not in b"".join(inside)
    )
    return b"".join(outside) if well_formed else None


def has_longer_line(text: bytes, max_bytes: int) -> bool:
    """Return whether a line of the text, with its end, is longer than this. The text must end with a line end."""
    end = 0
    while end < len(text):
        next_end = text.rfind(b"\n", end, end + max_bytes)
        if next_end < 0:
            return True
        end = next_end + 1
    return False
