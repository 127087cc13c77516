"""Test that the invented data matches its generators, and is small."""

from __future__ import annotations

from tests.data.content import DATA, content

MAX_BYTES = 400_000


def test_each_file_matches_its_generator() -> None:
    """If this fails, run `python -m tests.data`."""
    written = {
        str(file.relative_to(DATA)): file.read_bytes()
        for folder in ("identity", "recordings")
        for file in (DATA / folder).rglob("*")
        if file.is_file()
    }
    generated = content()
    assert written.keys() == generated.keys()
    assert [name for name, body in generated.items() if written[name] != body] == []


def test_the_invented_data_is_small() -> None:
    assert sum(map(len, content().values())) < MAX_BYTES
