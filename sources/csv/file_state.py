"""Observe the state of a file, and verify that bytes read from it were in the file at one moment."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sources.contract import Cursor, TerminalError, TransientError
from sources.csv.window import CHUNK_BYTES

TIMESTAMP_STEP = 0.02
"""Seconds. Two changes of a file that are closer together may get the same time from the kernel, whose clock for files
advances every 1 to 10 ms."""

SMALL_FILE_BYTES = 256 * 1024
"""A file of at most this size is hashed again whenever the question is whether it has changed. That takes less time
than `TIMESTAMP_STEP`."""

LINE_ENDS = (b"\n", b"\r")


@dataclass(frozen=True, slots=True)
class FileState:
    """The device, inode, size and times of a file.

    Its times are compared only with other times of the same file, never with a clock.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: BinaryIO) -> FileState:
        status = os.fstat(file.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def proves_content(self) -> bool:
        """Return whether equal states prove equal content, for bytes read after `wait_for_next_time`.

        If a file system stores times in whole seconds, equal states prove nothing.
        """
        return self.size > SMALL_FILE_BYTES and self.ctime_ns % 1_000_000_000 != 0

    @property
    def for_cursor(self) -> dict[str, int]:
        """Return the values to store in a cursor. The device is not included, since it differs between hosts."""
        return {"size": self.size, "mtime_ns": self.mtime_ns, "ctime_ns": self.ctime_ns, "inode": self.inode}

    def matches(self, cursor: Cursor) -> bool:
        """Return whether a cursor has this state. A cursor of an earlier version lacks `ctime_ns` and `inode`."""
        return all(cursor.get(name) == value for name, value in self.for_cursor.items())


@contextmanager
def opened(path: Path, label: str) -> Iterator[BinaryIO]:
    """Open a file; raise TerminalError if it is not a regular file.

    On NFS, opening the file also fetches its current state.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise TerminalError(
                f"{label}: is not a regular file; replace it, or exclude it from the pattern", code="file_unreadable"
            )
        yield file


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a pipe would otherwise block until it has a writer.
    return os.open(path, flags | os.O_NONBLOCK)


def wait_for_next_time(state: FileState, observed_at: float) -> None:
    """Wait until any further change of the file gets a later time.

    observed_at: when the file had this state (monotonic seconds).
    """
    if state.proves_content:
        time.sleep(max(0.0, observed_at + TIMESTAMP_STEP - time.monotonic()))


def digest_section(file: BinaryIO, start: int, end: int) -> str:
    """Return the SHA-256 of the file's bytes from start to end, or to the end of the file if that comes first."""
    digest = hashlib.sha256()
    file.seek(start)
    while start < end and (chunk := file.read(min(CHUNK_BYTES, end - start))):
        digest.update(chunk)
        start += len(chunk)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Evidence:
    """The data that was read from a file for one page, so that it can be verified before the page is committed.

    state:    the state of the file before it was read.
    preamble: the file's first bytes.
    digest:   the SHA-256 of the bytes from `start`, where the range starts, to `end`, where the page ends.
    """

    label: str
    path: Path
    state: FileState
    preamble: bytes
    start: int
    end: int
    digest: str

    def confirm(self) -> None:
        """Raise TransientError unless all bytes that were read were in the file at one moment.

        A file with the same state is not read again, if its state proves its content. Otherwise all those bytes are
        hashed again. Two equal hashes mean that no byte changed between the end of the first reading and the start of
        the second. A file that has only grown therefore passes.
        """
        try:
            with opened(self.path, self.label) as file:
                state = FileState.of(file)
                is_same = (state == self.state and state.proves_content) or self._is_read_equal(file)
        except (OSError, TerminalError) as error:
            raise self._changed(f"can no longer be read ({error})") from error
        if not is_same:
            raise self._changed("changed while it was read")

    def _is_read_equal(self, file: BinaryIO) -> bool:
        return (
            file.read(len(self.preamble)) == self.preamble
            and self._starts_at_line(file)
            and digest_section(file, self.start, self.end) == self.digest
        )

    def _starts_at_line(self, file: BinaryIO) -> bool:
        if not self.start or self.start == self.end:
            return True
        file.seek(self.start - 1)
        return file.read(1) in LINE_ENDS

    def _changed(self, problem: str) -> TransientError:
        return TransientError(f"{self.label}: {problem}; the run reads it again later", code="file_changed")
