"""The supervisor: what is left of a killed one is found, and its channel to the command decides when it ends."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from devstack.process import wait_gone
from devstack.supervisor import Channel, Stop
from tests.devstack.stack import Devstack, finish, stack_processes


def test_a_supervisor_killed_with_all_its_honchos_leaves_nothing_after_the_next_down(
    devstack: Devstack, folder: Path
) -> None:
    assert finish(devstack("up"))[0] == 0
    processes = stack_processes(folder)
    for process in processes[:1] + [each for each in processes if "honcho" in " ".join(each.cmdline())]:
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


def test_the_stack_outlives_a_command_that_sent_keep() -> None:
    command, supervisor = socket.socketpair()
    channel = Channel(supervisor)
    channel.send(step="ready")
    assert json.loads(command.recv(100)) == {"step": "ready"}
    command.sendall(b"keep\n")
    command.close()
    channel.listen(5)
    channel.listen(0)
    channel.send(step="nobody listens")
