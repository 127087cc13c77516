"""Read what is kept of a source again: `python -m tasks.replay SOURCE [--diff]`. The API asks for the same run."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from uuid import UUID

from settings import SettingsError, get_settings
from sources.contract import TerminalError
from sources.registry import SOURCES
from store.engine import make_engine
from tasks.replay_diff import diff
from tasks.runs import RunConflict, RunRequest, request_runs
from tasks.stored import Stored


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    stored = Stored(
        given.rejected or bool(given.code or given.field),
        given.code,
        given.field,
        given.run,
        given.fetched_from,
        given.fetched_to,
        given.body,
    )
    try:
        settings = get_settings()
        engine = make_engine(settings.database_url, "replay")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        if given.diff:
            diff(engine, SOURCES[given.source], stored, settings.clock_skew).write(sys.stdout, given.source)
        else:
            [asked] = request_runs(engine, [RunRequest(given.source, replay=stored)], requested_by="cli")
            sys.stdout.write(f"Run {asked.run} {'was asked for' if asked.created else 'is under way already'}.\n")
    except (RunConflict, TerminalError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        engine.dispose()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", choices=SOURCES, metavar="SOURCE", help=", ".join(SOURCES))
    parser.add_argument("--diff", action="store_true", help="only say what it would change; write nothing")
    parser.add_argument("--run", type=UUID, help="only the pages of this run")
    when = "fetched then or later; a time such as 2026-01-31T12:00:00Z"
    parser.add_argument("--from", type=_time, dest="fetched_from", metavar="TIME", help=when)
    parser.add_argument("--to", type=_time, dest="fetched_to", metavar="TIME", help="fetched before then")
    parser.add_argument("--body", help="only pages with this body, by its SHA-256")
    parser.add_argument("--rejected", action="store_true", help="only pages with items in quarantine")
    parser.add_argument("--code", help="of these, those refused for this code")
    parser.add_argument("--field", help="or for what is wrong with this field")
    return parser


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-01-31T12:00:00Z, got {text!r}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())
