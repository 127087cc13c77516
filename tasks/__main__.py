"""Run a command on the service's host: `python -m tasks try | replay | decide | clock`.

The API also offers `replay` and `decide`.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from settings import SettingsError

COMMANDS = ("try", "replay", "decide", "clock")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tasks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    try:
        # Importing a command reads the settings, which can be invalid.
        return int(import_module(f"tasks.cli.{options.command}_command").main(options.arguments))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
