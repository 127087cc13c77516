"""Test that each path gets a partition of its own, whose name Postgres can index."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.csv.file_names import MAX_NAME_BYTES, name_partition, read_path

PARTS = st.binary(min_size=1, max_size=255).filter(
    lambda part: not {0, ord("/")} & {*part} and part not in (b".", b"..")
)


@given(st.lists(st.sampled_from([b"backfill:", b"replay:x", b"closes", "é".encode(), b"\xff"]) | PARTS, min_size=1))
def test_a_readable_path_can_be_read_from_its_partition(parts: list[bytes]) -> None:
    path = os.fsdecode(b"/".join(parts))
    partition = name_partition(path)
    assert not partition.startswith(("backfill:", "replay:"))
    assert "//" not in partition
    assert len(partition.encode()) <= MAX_NAME_BYTES + 10
    assert read_path(partition) in (path, None)


@pytest.mark.parametrize("path", ["closes/2026.csv", "BTC:USD.csv", "a\\udcff.csv"])
def test_a_usual_path_is_the_name_of_its_partition(path: str) -> None:
    assert (name_partition(path), read_path(path)) == (path, path)


def test_two_long_paths_have_different_partitions() -> None:
    one, other = (name_partition("x" * MAX_NAME_BYTES + end) for end in "ab")
    assert one != other
    assert (read_path(one), len(one) < 250) == (None, True)
