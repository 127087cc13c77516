"""Test that the logs of all components are read together."""

from __future__ import annotations

from pathlib import Path

from devstack.logs import LogReader


def test_the_last_lines_of_each_log_come_first_and_then_only_new_ones(tmp_path: Path) -> None:
    web, worker = tmp_path / "web.log", tmp_path / "worker.log"
    web.write_text("one\ntwo\nthree\n")
    reader = LogReader(tmp_path, last=2)
    assert list(reader.new_lines()) == ["web        | two", "web        | three"]
    with web.open("a") as log:
        log.write("four\n")
    worker.write_text("first\n")
    assert list(reader.new_lines()) == ["web        | four", "worker     | first"]
    assert list(reader.new_lines()) == []


def test_a_line_is_shown_once_it_is_complete(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_bytes(b"")
    reader = LogReader(tmp_path)
    log.write_bytes(b"half")
    assert list(reader.new_lines()) == []
    log.write_bytes(b"half a line\nand")
    assert list(reader.new_lines()) == ["web        | half a line"]


def test_a_truncated_log_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    log.write_text("a long line before\n")
    reader = LogReader(tmp_path)
    assert list(reader.new_lines()) == []
    log.write_text("after\n")
    assert list(reader.new_lines()) == ["web        | after"]
