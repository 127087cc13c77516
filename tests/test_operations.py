"""docs/operations.md speaks of what there is: every event that the service logs is explained there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOGGED = re.compile(r'\blog\.(?:debug|info|warning|error|exception)\(\s*"(\w+)"')


def events() -> set[str]:
    code = [file for folder in ("app", "tasks", "sources", "store") for file in (ROOT / folder).rglob("*.py")]
    return {event for file in code for event in LOGGED.findall(file.read_text()) if not event.endswith("_")}


@pytest.mark.parametrize("event", sorted(events()))
def test_every_event_is_explained(event: str) -> None:
    logs = (ROOT / "docs/operations.md").read_text().partition("## Logs")[2].partition("\n## ")[0]
    assert f"`{event}`" in logs
