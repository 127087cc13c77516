"""Becomes the user a server may run as, tied to its launcher's life, and then the server. Standard library only.

Runs as a script of its own, between the launcher and the server, since nothing of this may happen in the launcher.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
INSIDE = 1000
"""Root's number inside the user namespace: anything but 0, which Postgres refuses."""


def enter_namespace() -> None:
    """Keep root's files and lose root's name."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER) is refused here")
    # The kernel takes a gid_map only from a process that can no longer drop groups.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE} {gid} 1")


def drop_to(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(launcher: int, death_signal: int) -> None:
    """Be sent a signal when the launcher dies. Linux only, and only after any change of user, which undoes it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != launcher:
        sys.exit("the launcher is gone")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--launcher", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--namespace", action="store_true")
    parser.add_argument("--drop-to", type=int, nargs=2, metavar=("UID", "GID"))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.namespace:
        enter_namespace()
    if arguments.drop_to:
        drop_to(*arguments.drop_to)
    # Started with `&` from a script, SIGINT and SIGQUIT come ignored.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    die_with(arguments.launcher, arguments.death_signal)
    os.umask(0o077)
    command = arguments.command[1:]  # the first is the `--` before it
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
