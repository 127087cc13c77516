"""Run every source once after a start, and show the progress of the runs until they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import requests
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

FOLLOW_SECONDS = 60.0
"""Maximum seconds to follow the runs. A longer run continues in the background."""

POLL_INTERVAL = 0.2
LOADED = ("succeeded", "partial")
BROKEN = "broken"
"""The status of a source that cannot run, because its module, declaration or settings are wrong."""

ENDED = (*LOADED, "failed", "cancelled", BROKEN)
COUNTER_WORDS = {
    "inserted": "new",
    "updated": "changed",
    "unchanged": "unchanged",
    "superseded": "superseded",
    "deduplicated": "duplicate",
    "rejected": "rejected",
    "left_out": "left out",
}

Run = dict[str, Any]


class NoFirstRuns(Exception):
    """The API refused the request for a first run, or stopped responding."""


class Screen(Protocol):
    def __call__(self, run: Run) -> None:
        """Show the progress of a run."""


def first_runs(
    api: str, token: str, since: datetime, console: Console, *, is_given_up: Callable[[], bool] = lambda: False
) -> list[Run]:
    """Run every source. Return the runs once all have ended, or after FOLLOW_SECONDS. Raise NoFirstRuns.

    since:       the time of the start. A live run of beat that was requested later also counts as a first run.
    is_given_up: called repeatedly. If it returns True, return the runs immediately.
    """
    try:
        with requests.Session() as session, _screen(console) as show:
            return _follow(session, api, _runs_since(session, api, token, since, console), show, is_given_up)
    except requests.RequestException as error:
        raise NoFirstRuns(f"A request to the API failed: {error}") from None


def describe_run(run: Run) -> str:
    """Return a run's progress in one line, such as `partial: 812 items, 806 new, 6 rejected`."""
    counters = run["counters"]
    fetched = counters["fetched"]
    if run["status"] == "queued" and not fetched:
        return "queued"
    counts = [f"{fetched:,} item{'' if fetched == 1 else 's'}"]
    counts += [f"{counters[name]:,} {word}" for name, word in COUNTER_WORDS.items() if counters[name]]
    if run["status"] == BROKEN:
        return f"broken: {run['error']['detail']}"
    reason = run.get("waiting_reason") or (run.get("error") or {}).get("detail") or ""
    return f"{run['status']}: {', '.join(counts)}{' — ' if reason else ''}{reason}"


def _runs_since(session: requests.Session, api: str, token: str, since: datetime, console: Console) -> list[Run]:
    """Return the newest live run of each source since the start. Request a run of each source that has none."""
    session.headers["Authorization"] = f"Bearer {token}"
    runs = []
    for source in _get(session, f"{api}/sources")["data"]:
        if source.get("status") == BROKEN:
            runs.append(_broken_run(source))
        elif source["paused"]:
            line = f"  {source['name']:<14} is paused: {source['paused_reason']}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            runs.append(_newest_run(session, api, source["name"], since) or _request_run(session, api, source["name"]))
    return runs


def _broken_run(source: Mapping[str, Any]) -> Run:
    """Return a broken source in the form of a run that has ended, since it cannot run."""
    return {
        "id": source["name"],
        "source": source["name"],
        "status": BROKEN,
        "counters": dict.fromkeys(("fetched", *COUNTER_WORDS), 0),
        "error": {"detail": source["detail"]},
    }


def _newest_run(session: requests.Session, api: str, source: str, since: datetime) -> Run | None:
    """Return the source's newest live run, or None if it was requested before the start."""
    for run in _get(session, f"{api}/runs?source={source}&kind=live&limit=1")["data"]:
        if datetime.fromisoformat(run["requested_at"]) >= since:
            newest: Run = run
            return newest
    return None


def _request_run(session: requests.Session, api: str, source: str) -> Run:
    """Request a run of the source. Return the new run, or the unfinished run of an earlier start."""
    response = session.post(f"{api}/runs", json={"source": source}, timeout=30)
    if response.status_code == requests.codes.conflict:
        return _get(session, f"{api}/runs/{_get(session, f'{api}/sources/{source}')['live_run']['run']}")
    if response.status_code != requests.codes.accepted:
        raise NoFirstRuns(
            f"The API refused to run {source}: POST /runs returned {response.status_code}: {response.text[:500]}"
        )
    run: Run = response.json()["data"][0]
    return run


def _follow(
    session: requests.Session, api: str, runs: list[Run], show: Screen, is_given_up: Callable[[], bool]
) -> list[Run]:
    deadline = time.monotonic() + FOLLOW_SECONDS
    while True:
        runs = [run if run["status"] in ENDED else _get(session, f"{api}/runs/{run['id']}") for run in runs]
        for run in runs:
            show(run)
        if all(run["status"] in ENDED for run in runs) or time.monotonic() > deadline or is_given_up():
            return runs
        time.sleep(POLL_INTERVAL)


def _get(session: requests.Session, url: str) -> dict[str, Any]:
    response = session.get(url, timeout=30)
    response.raise_for_status()
    document: dict[str, Any] = response.json()
    return document


@contextmanager
def _screen(console: Console) -> Iterator[Screen]:
    if console.is_terminal:
        with Progress(
            SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn(), console=console
        ) as progress:
            yield _Spinners(progress)
    else:
        yield _Lines(console)


class _Spinners:
    """Progress in a terminal: one line for each run, updated in place."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.tasks: dict[str, Any] = {}

    def __call__(self, run: Run) -> None:
        task = self.tasks.get(run["id"])
        if task is None:
            task = self.tasks[run["id"]] = self.progress.add_task("", total=1)
        has_ended = run["status"] in ENDED
        self.progress.update(task, description=f"{run['source']:<14} {describe_run(run)}", completed=int(has_ended))


class _Lines:
    """Progress in a log: one line for each change of a run's status."""

    def __init__(self, console: Console):
        self.console = console
        self.statuses: dict[str, str] = {}

    def __call__(self, run: Run) -> None:
        if self.statuses.get(run["id"]) != run["status"]:
            self.statuses[run["id"]] = run["status"]
            line = f"  {run['source']:<14} {describe_run(run)}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
