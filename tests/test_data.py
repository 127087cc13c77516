"""The invented data is what its generators make, and small."""

from __future__ import annotations

from tests.data.content import DATA, content

MOST_BYTES = 400_000


def test_each_file_is_what_its_generator_makes() -> None:
    """Otherwise run `python -m tests.data`."""
    written = {
        str(file.relative_to(DATA)): file.read_bytes()
        for folder in ("identity", "recordings")
        for file in (DATA / folder).rglob("*")
        if file.is_file()
    }
    made = content()
    assert written.keys() == made.keys()
    assert [name for name, body in made.items() if written[name] != body] == []


def test_it_is_small() -> None:
    assert sum(map(len, content().values())) < MOST_BYTES
