"""`python -m tasks replay | decide`: what people ask for where the service runs. The API takes the same."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from settings import SettingsError

COMMANDS = ("replay", "decide")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks", description="`--help` after a command tells of it.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    try:
        command = import_module(f"tasks.{given.command}")  # which reads the settings
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    code: int = command.main(given.arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
