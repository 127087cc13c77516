"""Test that the cloud how-tos use the health checks of docker-compose.yml and the processes of the Procfile."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
PROCFILE = (ROOT / "Procfile").read_text()
HOWTO = ROOT / "docs/howto"


def heartbeat_query(text: str) -> str:
    """Return the SQL of the only heartbeat check in a text, without Python's quotes and line breaks."""
    [call] = re.findall(r"cursor\.execute\(\s*(\".*?\"),\s*\[os\.environ", text, re.DOTALL)
    return "".join(re.findall(r'"([^"]*)"', call))


def test_the_cloud_howtos_check_heartbeats_like_compose() -> None:
    assert heartbeat_query((HOWTO / "cloud-checklist.md").read_text()) == heartbeat_query(COMPOSE)


@pytest.mark.parametrize("page", ["aws.md", "google-cloud.md", "azure.md"])
@pytest.mark.parametrize("process", ["web", "worker", "control", "beat"])
def test_each_cloud_howto_starts_the_processes_of_the_procfile(page: str, process: str) -> None:
    [command] = re.findall(rf"^{process}: exec (.*)$", PROCFILE, re.MULTILINE)
    assert command.replace("${WORKER_CONCURRENCY:-2}", "2") in (HOWTO / page).read_text()
