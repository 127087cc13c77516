"""Generate the content of every invented file."""

from __future__ import annotations

from pathlib import Path

from tests.data import csv_files, identity, upstreams

DATA = Path(__file__).parent


def content() -> dict[str, bytes]:
    """Return the content of each file, by its path below DATA."""
    folders = {"identity": identity.files(), "recordings": upstreams.files() | csv_files.files()}
    return {f"{folder}/{name}": body for folder, files in folders.items() for name, body in files.items()}
