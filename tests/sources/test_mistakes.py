"""Test what the author of a source sees after a deliberate mistake, and that a good source runs next to all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import Engine, text

from tests.data.mistakes import BROKEN, FAILED, GOOD, MODULE, REJECTED, SETTINGS, Mistake
from tests.processes import ROOT, Processes, until

RUNNING = (*FAILED, *REJECTED)
TOKEN = "a token of the test of mistakes".replace(" ", "-")


def write_modules(folder: Path) -> dict[str, str]:
    """Write a module for each mistake, and a good one. Return the environment that loads them all."""
    texts = {mistake.name: mistake.text() for mistake in (*BROKEN, *RUNNING)}
    texts[GOOD] = MODULE.replace('"NAME"', f'"{GOOD}"')
    for name, module in texts.items():
        (folder / f"{name}.py").write_text(module)
    names = ",".join([GOOD, *(name for name in texts if name != GOOD)])
    return {"EXTRA_SOURCES": names, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT))), **SETTINGS}


def missing(mistakes: tuple[Mistake, ...], messages: Mapping[str, str], folder: Path) -> dict[str, str | None]:
    """Return, by mistake, the messages that lack what the author must see."""
    return {
        mistake.name: messages.get(mistake.name)
        for mistake in mistakes
        if mistake.message.format(file=folder / f"{mistake.name}.py") not in messages.get(mistake.name, "")
    }


def finished(engine: Engine) -> dict[str, Any]:
    """Return the finished runs by source, once the good source and every source with a mistake have one."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM runs WHERE finished_at IS NOT NULL")).all()
    runs = {row.source: row for row in rows}
    return runs if runs.keys() >= {GOOD, *(mistake.name for mistake in RUNNING)} else {}


def test_each_mistake_names_what_to_correct_and_stops_no_other_source(
    processes: Processes, engine: Engine, tmp_path: Path
) -> None:
    processes.environ |= write_modules(tmp_path) | {"API_TOKEN": TOKEN, "COINGECKO_URL": "http://127.0.0.1:9"}
    web = processes.serve()
    beat = [processes.start(role) for role in ("worker", "beat")][-1]
    runs = until(lambda: finished(engine), within=60, what="runs of all sources")

    assert (runs[GOOD].status, runs[GOOD].error_detail) == ("succeeded", None)
    assert missing(FAILED, {name: run.error_detail or "" for name, run in runs.items()}, tmp_path) == {}
    assert {runs[mistake.name].error_code for mistake in FAILED} == {"source_error"}
    with engine.connect() as connection:
        query = "SELECT source, reasons::text AS reasons FROM rejects"
        rejects = {row.source: row.reasons for row in connection.execute(text(query))}
    assert missing(REJECTED, rejects, tmp_path) == {}

    listed = {source["name"]: source for source in requests.get(f"{web.url}/sources", timeout=10).json()["data"]}
    broken = {name: source["detail"] for name, source in listed.items() if source["status"] == "broken"}
    assert missing(BROKEN, broken, tmp_path) == {}
    assert broken.keys() == {mistake.name for mistake in BROKEN}
    one = requests.get(f"{web.url}/sources/rate_negative", timeout=10).json()
    assert (one["status"], one["detail"], one["every_seconds"]) == ("broken", broken["rate_negative"], None)

    health = requests.get(f"{web.url}/health", timeout=10).json()["checks"]
    assert health["beat"]["status"] == "ok"
    assert health["sources"]["rate_negative"]["status"] == "degraded"
    assert health["sources"]["rate_negative"]["detail"] == f"Broken: {broken['rate_negative']}"
    assert health["sources"][GOOD]["status"] == "ok"

    token = {"Authorization": f"Bearer {TOKEN}"}
    response = requests.post(f"{web.url}/runs", json={"source": "rate_negative"}, headers=token, timeout=10)
    assert (response.status_code, response.json()["code"]) == (409, "source_broken")
    assert broken["rate_negative"] in response.json()["detail"]
    assert requests.get(f"{web.url}/data?source=rate_negative", timeout=10).json()["data"] == []
    beat.assert_running()
    assert '"source_broken"' in beat.log.read_text()


def test_there_are_at_least_thirty_mistakes() -> None:
    names = [mistake.name for mistake in (*BROKEN, *RUNNING)]
    assert len(set(names)) == len(names) >= 30
