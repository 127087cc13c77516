"""Parse the command line of `python -m devstack`. The Makefile has a short target for most commands."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from devstack import commands
from devstack.environment import WrongEnvironment, data_folder, read_environment
from devstack.supervised import UpFailed
from devstack.supervisor import supervise


def main() -> int:
    arguments = _parser().parse_args()
    try:
        environ = read_environment(os.environ)
        if arguments.action == "supervise":
            return supervise(data_folder(environ), environ, socket.socket(fileno=arguments.channel))
        commands.catch_interrupts()
        if arguments.action == "logs":
            return commands.logs(environ, follow=arguments.follow)
        if arguments.action == "exec":
            return commands.execute(environ, [arguments.command, *arguments.arguments])
        return int(arguments.function(environ))
    except (UpFailed, WrongEnvironment) as error:
        commands.progress.print(f"\n{error}")
        return 1
    except commands.Interrupted:
        # Ctrl-C is the normal way to end `run` and `logs`.
        return 0 if arguments.action in ("run", "logs") else commands.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack", description="Run Kasparro on this machine.")
    actions = parser.add_subparsers(dest="action", required=True)
    for function in (commands.up, commands.run, commands.down, commands.status, commands.clean):
        actions.add_parser(function.__name__, help=function.__doc__).set_defaults(function=function)
    logs = actions.add_parser("logs", help=commands.logs.__doc__)
    logs.add_argument(
        "-f",
        "--follow",
        action="store_true",
        default=sys.stdout.isatty(),
        help="follow the logs; the default in a terminal",
    )
    execute = actions.add_parser("exec", help=commands.execute.__doc__)
    execute.add_argument("command")
    execute.add_argument("arguments", nargs=argparse.REMAINDER)
    supervisor = actions.add_parser("supervise")  # Only `up` and `run` start it.
    supervisor.add_argument("channel", type=int)
    return parser


if __name__ == "__main__":
    sys.exit(main())
