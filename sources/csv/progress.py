"""Track how far a range of a CSV file was read, and the hash of its bytes up to there."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from sources.contract import Cursor, TransientError
from sources.csv.ranges import Position
from sources.csv.window import CHUNK_BYTES


class Progress:
    """The position up to which a range was read, and the hash of the bytes before it."""

    def __init__(self, label: str, file: BinaryIO, start: Position):
        self.start, self.offset, self.line = start, start.offset, start.line
        self._label, self._file, self._hash = label, file, hashlib.sha256()

    @classmethod
    def at(cls, label: str, file: BinaryIO, size: int, start: Position, cursor: Cursor) -> Progress | None:
        """Restore the progress from a cursor; None if the range now starts elsewhere or its content has changed."""
        progress = cls(label, file, start)
        if cursor.get("begin") != start.offset or not start.offset < cursor["offset"] <= size:
            return None
        progress.advance(b"", cursor["offset"] - start.offset, cursor["line"] - start.line)
        return progress if progress.digest == cursor["digest"] else None

    def advance(self, data: bytes, length: int, lines: int) -> None:
        """Advance by `length` bytes: hash `data`, then the file's bytes up to the new position.

        `data` was already read from the file. It is not read again, since the file may have changed.
        """
        self._add(self._hash, data, length)
        self.offset, self.line = self.offset + length, self.line + lines

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def digest_after(self, data: bytes, length: int) -> str:
        """Return the hash that the progress would have after `advance`."""
        digest = self._hash.copy()
        self._add(digest, data, length)
        return digest.hexdigest()

    def _add(self, digest: hashlib._Hash, data: bytes, length: int) -> None:
        digest.update(data)
        offset, end = self.offset + len(data), self.offset + length
        self._file.seek(offset)
        while offset < end:
            chunk = self._file.read(min(CHUNK_BYTES, end - offset))
            if not chunk:
                raise TransientError(
                    f"{self._label}: became shorter while it was read; the run reads it again later",
                    code="file_changed",
                )
            digest.update(chunk)
            offset += len(chunk)
