"""Convert the path of a CSV file to the name of its partition and back, for any file name."""

from __future__ import annotations

from hashlib import sha256

from sources.contract import RESERVED_PREFIXES

THIS_FOLDER = "./"
"""Precedes a path that would otherwise start with a reserved prefix. It does not change the path's meaning."""

UNREADABLE = "/"
"""Precedes the text that stands for an unreadable path. No path below a folder starts with it."""

MAX_NAME_BYTES = 2000
"""Maximum size of a path. Postgres cannot index a partition with a much longer name."""

UNREADABLE_DETAIL = f"its name is not UTF-8, or has more than {MAX_NAME_BYTES} bytes; rename the file"

MAX_SHOWN_CHARS = 200


def name_partition(path: str) -> str:
    """Return the name of the partition for a path below CSV_DIR. Usually, this name is the path.

    path: as returned by the functions of `os`.
    """
    try:
        is_readable = len(path.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # Each byte that is not UTF-8 is a lone surrogate.
        is_readable = False
    if not is_readable:
        return UNREADABLE + _shown(path)
    return THIS_FOLDER + path if path.startswith(RESERVED_PREFIXES) else path


def read_path(file: str) -> str | None:
    """Return the path of a file from the name of its partition; None if the name stands for an unreadable path."""
    return None if file.startswith(UNREADABLE) else file.removeprefix(THIS_FOLDER)


def _shown(path: str) -> str:
    text = path.encode("utf-8", "backslashreplace").decode()
    if len(text) <= MAX_SHOWN_CHARS:
        return text
    return f"{text[:MAX_SHOWN_CHARS]}…{sha256(text.encode()).hexdigest()[:16]}"
