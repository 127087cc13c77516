"""Test the supervisor: `down` ends leftover processes, and the stack stops with its command unless told to stay."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from devstack.process import wait_gone
from devstack.supervisor import Channel, Stop
from tests.devstack.stack import Devstack, finish, stack_processes


def test_down_ends_all_processes_of_a_supervisor_that_was_killed_with_its_honchos(
    devstack: Devstack, folder: Path
) -> None:
    assert finish(devstack("up"))[0] == 0
    processes = stack_processes(folder)
    for process in processes[:1] + [child for child in processes if "honcho" in " ".join(child.cmdline())]:
        process.kill()
    assert finish(devstack("down"))[0] == 0
    assert wait_gone(processes, 10) == []


def test_the_stack_stops_when_its_command_ends() -> None:
    command, supervisor = socket.socketpair()
    channel = Channel(supervisor)
    channel.listen(0)
    command.close()
    with pytest.raises(Stop):
        channel.listen(5)


def test_the_stack_continues_after_a_command_that_sent_keep() -> None:
    command, supervisor = socket.socketpair()
    channel = Channel(supervisor)
    channel.send(step="ready")
    assert json.loads(command.recv(100)) == {"step": "ready"}
    command.sendall(b"keep\n")
    command.close()
    channel.listen(5)
    channel.listen(0)
    channel.send(step="nobody listens")
