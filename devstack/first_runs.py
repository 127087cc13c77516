"""Asks for a run of every source and follows each to its end, with progress on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import requests
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

DEADLINE = 60.0
"""Seconds until the runs are left to themselves: a large one goes on, and one that waits has said why."""

LOOK_EVERY = 0.2
LOADED = ("succeeded", "partial")
ENDED = (*LOADED, "failed", "cancelled")

Run = dict[str, Any]


class NoFirstRuns(Exception):
    """The API did not take the request for the first runs, or stopped answering."""


class Screen(Protocol):
    def __call__(self, run: Run) -> None:
        """Show how far a run is."""


def first_runs(api: str, token: str, console: Console) -> list[Run]:
    """The runs as they ended, or as they stood at the deadline. Raises NoFirstRuns."""
    try:
        with requests.Session() as session, _screen(console) as show:
            return _follow(session, api, _ask(session, api, token, console), show)
    except requests.RequestException as error:
        raise NoFirstRuns(f"The API does not answer as it should: {error}") from None


def described(run: Run) -> str:
    """A run's progress in a line: `partial: 812 items, 806 new, 2 rejected`."""
    counters = run["counters"]
    if run["status"] == "queued" and not counters["fetched"]:
        return "queued"
    told = [f"{counters['fetched']:,} items"] + [
        f"{counters[name]:,} {word}" for name, word in WORDS.items() if counters[name]
    ]
    why = run.get("waiting_reason") or (run.get("error") or {}).get("detail") or ""
    return f"{run['status']}: {', '.join(told)}{' — ' if why else ''}{why}"


WORDS = {
    "inserted": "new",
    "updated": "changed",
    "unchanged": "unchanged",
    "deduplicated": "double",
    "rejected": "rejected",
}


def _ask(session: requests.Session, api: str, token: str, console: Console) -> list[Run]:
    session.headers["Authorization"] = f"Bearer {token}"
    runs = []
    for source in _get(session, f"{api}/sources")["data"]:
        if source["paused"]:
            why = f"{source['name']:<14} is paused: {source['paused_reason']}"
            console.print(f"  {why}", markup=False, highlight=False, soft_wrap=True)
        else:
            runs.append(_run_of(session, api, source["name"]))
    return runs


def _run_of(session: requests.Session, api: str, source: str) -> Run:
    """A new run of the source, or the one that an earlier start left unfinished."""
    answer = session.post(f"{api}/runs", json={"source": source}, timeout=30)
    if answer.status_code == requests.codes.conflict:
        return _get(session, f"{api}/runs/{_get(session, f'{api}/sources/{source}')['live_run']['run']}")
    if answer.status_code != requests.codes.accepted:
        raise NoFirstRuns(f"POST /runs answered {answer.status_code}: {answer.text[:500]}")
    run: Run = answer.json()["data"][0]
    return run


def _follow(session: requests.Session, api: str, runs: list[Run], show: Screen) -> list[Run]:
    deadline = time.monotonic() + DEADLINE
    while True:
        runs = [run if run["status"] in ENDED else _get(session, f"{api}/runs/{run['id']}") for run in runs]
        for run in runs:
            show(run)
        if all(run["status"] in ENDED for run in runs) or time.monotonic() > deadline:
            return runs
        time.sleep(LOOK_EVERY)


def _get(session: requests.Session, url: str) -> dict[str, Any]:
    answer = session.get(url, timeout=30)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


@contextmanager
def _screen(console: Console) -> Iterator[Screen]:
    if console.is_terminal:
        with Progress(
            SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
        ) as progress:
            yield _Bars(progress)
    else:
        yield _Lines(console)


class _Bars:
    def __init__(self, progress: Progress):
        self.progress = progress
        self.tasks: dict[str, Any] = {}

    def __call__(self, run: Run) -> None:
        task = self.tasks.get(run["id"])
        if task is None:
            task = self.tasks[run["id"]] = self.progress.add_task("", total=1)
        ended = run["status"] in ENDED
        self.progress.update(task, description=f"{run['source']:<14} {described(run)}", completed=int(ended))


class _Lines:
    """A line when a run's status changes: in a log, every further line is one too many."""

    def __init__(self, console: Console):
        self.console = console
        self.seen: dict[str, str] = {}

    def __call__(self, run: Run) -> None:
        if self.seen.get(run["id"]) != run["status"]:
            self.seen[run["id"]] = run["status"]
            self.console.print(f"  {run['source']:<14} {described(run)}", markup=False, highlight=False, soft_wrap=True)
