"""Read what is kept of a source again: `python -m tasks replay SOURCE [--diff]`. The API asks for the same run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from datetime import UTC, datetime
from uuid import UUID

from settings import get_settings
from sources.contract import TerminalError, TransientError
from sources.registry import SOURCES
from store.engine import make_engine
from store.errors import describe
from tasks.cli.replay_diff import diff
from tasks.runs.parameters import SHA256, ReplayParameters
from tasks.runs.requests import RunConflict, RunRequest, request_runs
from tasks.runtime.retry import DATABASE_ERRORS

CHOICES = tuple(it.name for it in fields(ReplayParameters))


def main(arguments: list[str]) -> int:
    given = parser().parse_args(arguments)
    wanted = {name: value for name, value in vars(given).items() if name in CHOICES and value is not None}
    chosen = ReplayParameters(**{**wanted, "rejected": given.rejected or bool(given.code or given.field)})
    settings = get_settings()
    engine = make_engine(settings.database_url, "replay")
    try:
        if given.diff:
            diff(engine, SOURCES[given.source], chosen, settings.clock_skew).write(sys.stdout, given.source)
        else:
            [asked] = request_runs(engine, [RunRequest(given.source, replay=chosen)], requested_by="cli")
            sys.stdout.write(f"Run {asked.run} {'was asked for' if asked.created else 'is under way already'}.\n")
    except (RunConflict, TerminalError, TransientError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except DATABASE_ERRORS as error:
        sys.stderr.write(f"Postgres: {describe(error)}\n")
        return 1
    finally:
        engine.dispose()
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", choices=SOURCES, metavar="SOURCE", help=", ".join(SOURCES))
    parser.add_argument("--diff", action="store_true", help="only say what it would change; write nothing")
    parser.add_argument("--run", type=UUID, help="only the pages of this run")
    when = "fetched then or later; a time such as 2026-01-31T12:00:00Z"
    parser.add_argument("--from", type=_time, dest="fetched_from", metavar="TIME", help=when)
    parser.add_argument("--to", type=_time, dest="fetched_to", metavar="TIME", help="fetched before then")
    parser.add_argument("--body", type=_digest, help="only pages with this body, by its SHA-256")
    parser.add_argument("--rejected", action="store_true", help="only pages with items in quarantine")
    parser.add_argument("--code", help="of these, those refused for this code")
    parser.add_argument("--field", help="or for what is wrong with this field")
    return parser


def _digest(text: str) -> str:
    if not SHA256.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a SHA-256 in 64 hexadecimal digits, got {text!r}")
    return text


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-01-31T12:00:00Z, got {text!r}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
