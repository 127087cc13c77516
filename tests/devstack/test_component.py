"""Test components: each has its own log and stops together with all processes that it started."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from devstack.component import Component, procfile_components
from devstack.process import family, wait_gone
from tests.devstack.stack import wait_until


def test_stopping_a_component_ends_its_processes_and_keeps_its_log(tmp_path: Path) -> None:
    component = Component("parent", ["/bin/sh", "-c", "echo ready; sleep 600 & wait"], os.environ, tmp_path)
    component.start()
    wait_until(lambda: "ready" in component.log.read_text() and len(family(component.own_pid or 0)) == 2)
    processes = family(component.own_pid or 0)
    component.stop()
    assert wait_gone(processes, 0) == []
    assert not component.running
    assert component.log == tmp_path / "parent.log"


def test_each_procfile_line_becomes_a_component_with_the_pid_of_its_command(tmp_path: Path) -> None:
    procfile = tmp_path / "Procfile"
    procfile.write_text("first: exec sleep 600\nsecond: exit 7\n")
    first, second = procfile_components(procfile, os.environ, tmp_path)
    assert (first.name, second.name) == ("first", "second")
    first.start()
    second.start()
    try:
        wait_until(lambda: not second.running)
        assert first.running
        wait_until(lambda: first.pid != first.own_pid)
        wait_until(lambda: psutil.Process(first.pid).cmdline() == ["sleep", "600"])
        first.request_stop()
        wait_until(lambda: not first.running)
    finally:
        first.stop()
        second.stop()
