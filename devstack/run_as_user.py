"""Run a command as another user, and end it when the launcher ends.

A separate script does this, since the launcher cannot change its own user temporarily. Use only the standard library.
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
NAMESPACE_UID = 1000
"""Root's user id inside the user namespace. Postgres refuses to run as user 0."""


def enter_namespace() -> None:
    """Enter a user namespace where root has another id and still owns its files."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER) is not permitted")
    # The kernel accepts a gid_map only after setgroups is denied.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NAMESPACE_UID} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NAMESPACE_UID} {gid} 1")


def drop_to(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with(launcher: int, death_signal: int) -> None:
    """Request a signal when the launcher ends (only on Linux). Exit if the launcher has already ended.

    Call this after changing the user, since that change cancels the request.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != launcher:
        sys.exit("The launcher has ended.")


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
    # A process that a script starts with `&` ignores SIGINT and SIGQUIT.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    die_with(arguments.launcher, arguments.death_signal)
    os.umask(0o077)
    command = arguments.command[1:]  # after the `--`
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
