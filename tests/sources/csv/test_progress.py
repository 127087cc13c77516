"""Test that the progress of a scan can be restored from its cursor, unless the content before it has changed."""

from __future__ import annotations

import hashlib
import io

import pytest

from sources.contract import TransientError
from sources.csv.progress import Progress
from sources.csv.ranges import Position

CONTENT = b"one\ntwo\nthree\n"


def progress_at(content: bytes, **changes: object) -> Progress | None:
    cursor = {"begin": 4, "offset": 8, "line": 3, "digest": hashlib.sha256(b"two\n").hexdigest(), **changes}
    return Progress.at("file", io.BytesIO(content), len(content), Position(4, 2), cursor)


def test_a_restored_progress_continues_the_hash() -> None:
    progress = progress_at(CONTENT)
    assert progress
    after = progress.digest_after(b"three\n", 6)
    progress.advance(b"three\n", 6, 1)
    assert (progress.offset, progress.line) == (14, 4)
    assert progress.digest == after == hashlib.sha256(b"two\nthree\n").hexdigest()


@pytest.mark.parametrize(
    ("content", "changes"), [(b"one\nTWO\n", {}), (CONTENT, {"begin": 0}), (b"one\ntw", {}), (CONTENT, {"offset": 4})]
)
def test_changed_content_or_another_start_is_not_resumed(content: bytes, changes: dict[str, object]) -> None:
    assert progress_at(content, **changes) is None


def test_the_rest_of_a_partly_kept_line_is_hashed_from_the_file() -> None:
    progress = Progress("file", io.BytesIO(CONTENT), Position(0, 1))
    progress.advance(b"one\n", 4 + 4, 2)
    assert progress.digest == hashlib.sha256(b"one\ntwo\n").hexdigest()
    with pytest.raises(TransientError, match="file: became shorter"):
        progress.advance(b"", 100, 1)
