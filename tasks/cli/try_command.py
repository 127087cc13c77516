"""Try a source without the stack: `python -m tasks try SOURCE [--pages N] [--file F]`. Nothing is stored."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from settings import get_settings
from sources.contract import Source, TerminalError, TransientError
from sources.redaction import process_redactor
from tasks.cli.try_items import try_page
from tasks.cli.try_pages import try_pages
from tasks.cli.try_report import Report
from tasks.pipeline.source_errors import own_code

if TYPE_CHECKING:
    from sources.registry import BrokenSource

NO_SERVICES = {"DATABASE_URL": "postgresql://127.0.0.1/none", "REDIS_URL": "redis://127.0.0.1"}
"""The settings require both services. This command uses neither."""

MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    with _without_services(), _without_logs():
        sources, broken = _find(options.source)
        if not sources and not broken:
            sys.stderr.write(f"{_describe_unknown(options.source)}\n")
            return 2
        for wrong in broken:
            sys.stderr.write(process_redactor().hide(f"{wrong.name}: broken: {wrong.detail}\n"))
        results = [try_source(source, options.pages, options.file) for source in sources]
    return max([*results, int(bool(broken))])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks try",
        description=(__doc__ or "").splitlines()[0],
        epilog="The exit status is 0 if there is a quote and nothing contradicts, otherwise 1; 2 for wrong arguments.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a source's name, or a module that is not registered yet")
    parser.add_argument("--pages", type=_count, default=1, help="number of pages to fetch (default: 1)")
    file_help = "read this file instead: the stored body of a response, or a CSV file"
    parser.add_argument("--file", type=Path, metavar="FILE", help=file_help)
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def try_source(source: Source, pages: int, file: Path | None) -> int:
    """Write a report of a source's first pages. Return the exit status."""
    report, settings, error = Report(sys.stdout, source), get_settings(), None
    try:
        for origin, page, is_last in try_pages(source, pages, file, _wait):
            with own_code(source):
                tried = try_page(source, origin, page, settings, is_last=is_last)
            report.add(tried)
    except (TransientError, TerminalError) as raised:
        error = f"{raised.code}: {raised.detail}"
    return report.end(error)


def _wait(seconds: float) -> None:
    sys.stderr.write(f"Waiting {seconds:.0f} s for the rate limit.\n")
    time.sleep(seconds)


def _find(name: str) -> tuple[list[Source], list[BrokenSource]]:
    """Return the source with this name, or the sources of the module with this name."""
    # Importing the registry reads the settings.
    from sources.registry import BROKEN, SOURCES, sources_of

    if name in SOURCES or name in BROKEN:
        return [SOURCES[name]] if name in SOURCES else [], [BROKEN[name]] if name in BROKEN else []
    if not _is_module(name):
        return [], []
    sources, broken = sources_of(name)
    return list(sources.values()), list(broken.values())


def _is_module(name: str) -> bool:
    """Return whether a module exists. If the code of its package fails, it exists, and is broken."""
    if not MODULE_NAME.fullmatch(name):
        return False
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError as error:
        return not f"{name}.".startswith(f"{error.name}.")
    except (Exception, SystemExit):  # noqa: BLE001 — the package's own code runs
        return True


def _describe_unknown(name: str) -> str:
    from sources.registry import BROKEN, MODULES, SOURCES

    as_module = name.removesuffix(".py").strip("./").replace("/", ".")
    known: Sequence[str] = [*SOURCES, *BROKEN, *MODULES]
    close = [as_module] if as_module != name and _is_module(as_module) else get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the sources are {', '.join([*SOURCES, *BROKEN])}."
    return f"There is no source and no module {name!r}; {hint}"


@contextmanager
def _without_services() -> Iterator[None]:
    """Set the settings of the services for this command if they are missing."""
    missing = {name: url for name, url in NO_SERVICES.items() if not os.environ.get(name, "").strip()}
    os.environ.update(missing)
    get_settings.cache_clear()
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
        get_settings.cache_clear()


@contextmanager
def _without_logs() -> Iterator[None]:
    """Drop the log events of the pipeline, since the report has the same sentences."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
