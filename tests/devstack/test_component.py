"""Components: commands that log to a file of their own, and can be stopped with everything they started."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from devstack.component import Component, procfile_components
from devstack.process import family, wait_gone
from tests.devstack.stack import wait_until


def test_a_stopped_component_leaves_no_process_and_its_output_in_its_log(tmp_path: Path) -> None:
    component = Component("parent", ["/bin/sh", "-c", "echo ready; sleep 600 & wait"], os.environ, tmp_path)
    component.start()
    wait_until(lambda: "ready" in component.log.read_text() and len(family(component.own_pid or 0)) == 2)
    processes = family(component.own_pid or 0)
    component.stop()
    assert wait_gone(processes, 0) == []
    assert not component.running
    assert component.log == tmp_path / "parent.log"


def test_a_procfile_gives_a_component_for_each_line_and_its_pid_is_the_command(tmp_path: Path) -> None:
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
