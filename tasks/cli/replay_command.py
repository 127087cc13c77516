"""Replay the stored pages of a source: `python -m tasks replay SOURCE [--diff]`. The API can request the same run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from datetime import UTC, datetime
from uuid import UUID

from settings import get_settings
from sources.contract import TerminalError, TransientError
from sources.registry import BROKEN, SOURCES
from store.engine import make_engine
from store.errors import describe
from store.schema import explain
from tasks.cli.replay_diff import diff
from tasks.runs.parameters import SHA256, ReplayParameters
from tasks.runs.requests import RunConflict, RunRequest, SourceBroken, request_runs
from tasks.runtime.retry import DATABASE_ERRORS

SELECTORS = tuple(field.name for field in fields(ReplayParameters))


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    selectors = {name: value for name, value in vars(options).items() if name in SELECTORS and value is not None}
    rejected = options.rejected or bool(options.code or options.field)
    parameters = ReplayParameters(**{**selectors, "rejected": rejected})
    settings = get_settings()
    engine = make_engine(settings.database_url, "replay")
    try:
        if options.source in BROKEN:
            raise SourceBroken(options.source)
        if options.diff:
            diff(engine, SOURCES[options.source], parameters, settings.clock_skew).write(sys.stdout, options.source)
        else:
            [result] = request_runs(engine, [RunRequest(options.source, replay=parameters)], requested_by="cli")
            state = "was requested" if result.created else "already exists and is unfinished"
            sys.stdout.write(f"Run {result.run} {state}.\n")
    except (RunConflict, SourceBroken, TerminalError, TransientError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except DATABASE_ERRORS as error:
        sys.stderr.write(f"Postgres: {describe(explain(engine, error))}\n")
        return 1
    finally:
        engine.dispose()
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", choices=[*SOURCES, *BROKEN], metavar="SOURCE", help="a source's name")
    parser.add_argument("--diff", action="store_true", help="show the changes without writing them")
    parser.add_argument("--run", type=UUID, help="only pages that this run fetched")
    from_help = "only pages fetched at this time or later, such as 2026-01-31T12:00:00Z"
    parser.add_argument("--from", type=_time, dest="fetched_from", metavar="TIME", help=from_help)
    to_help = "only pages fetched before this time"
    parser.add_argument("--to", type=_time, dest="fetched_to", metavar="TIME", help=to_help)
    parser.add_argument("--body", type=_digest, help="only pages whose body has this SHA-256")
    parser.add_argument("--rejected", action="store_true", help="only pages with quarantined rejects")
    parser.add_argument("--code", help="only pages with rejects that have this code")
    parser.add_argument("--field", help="only pages with rejects caused by this field")
    return parser


def _digest(text: str) -> str:
    if not SHA256.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a SHA-256 of 64 lower-case hexadecimal digits, got {text!r}")
    return text


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-01-31T12:00:00Z, got {text!r}") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
