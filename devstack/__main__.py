"""python -m devstack up | run | down | status | logs | exec | clean — the Makefile says most in fewer letters."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from devstack import commands
from devstack.environment import WrongEnvironment, data_folder, read_environment
from devstack.supervisor import supervise


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack", description="Kasparro on this machine.")
    actions = parser.add_subparsers(dest="action", required=True)
    for action in (commands.up, commands.run, commands.down, commands.status, commands.clean):
        actions.add_parser(action.__name__, help=action.__doc__).set_defaults(do=action)
    logs = actions.add_parser("logs", help=commands.logs.__doc__)
    logs.add_argument("-f", "--follow", action="store_true", default=sys.stdout.isatty(), help="default in a terminal")
    execute = actions.add_parser("exec", help=commands.execute.__doc__)
    execute.add_argument("command")
    execute.add_argument("arguments", nargs=argparse.REMAINDER)
    supervisor = actions.add_parser("supervise")  # for `up` and `run` alone
    supervisor.add_argument("line", type=int)
    arguments = parser.parse_args()
    try:
        environ = read_environment(os.environ)
        if arguments.action == "supervise":
            return supervise(data_folder(environ), environ, socket.socket(fileno=arguments.line))
        commands.interruptible()
        if arguments.action == "logs":
            return commands.logs(environ, follow=arguments.follow)
        if arguments.action == "exec":
            return commands.execute(environ, [arguments.command, *arguments.arguments])
        return int(arguments.do(environ))
    except (commands.UpFailed, WrongEnvironment) as error:
        commands.progress.print(f"\n{error}")
        return 1
    except commands.Interrupted:
        # For these it is the way to end them.
        return 0 if arguments.action in ("run", "logs") else commands.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
