"""Run Postgres on a disk small enough for a test to fill: a tmpfs, unmounted when the server is erased."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from devstack.postgres import Postgres
from tests.chaos.registry import NotRun

CHUNK_BYTES = 4096


class Disk:
    """A mounted tmpfs. fill() uses up its free space, and make_room() frees it again."""

    def __init__(self, folder: Path, megabytes: int):
        self.folder = folder
        self._ballast = folder / "ballast"
        folder.mkdir(parents=True)
        _check_machine()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "kasparro-chaos", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            raise NotRun(f"this machine refuses to mount a tmpfs: {mounted.stderr.strip()}")

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(CHUNK_BYTES))

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        # --lazy detaches it at once, even if a process still has a file open.
        subprocess.run(["umount", "--lazy", self.folder], capture_output=True, check=False)


class PostgresOnSmallDisk(Postgres):
    """A Postgres with all its data on a small disk."""

    def __init__(self, folder: Path, megabytes: int):
        super().__init__(folder)
        self.disk = Disk(self.root, megabytes)

    def erase(self) -> None:
        self.disk.unmount()
        super().erase()


class PostgresWithSmallTablespace(Postgres):
    """A Postgres with a tablespace on a small disk. The write-ahead log and everything else are elsewhere."""

    def __init__(self, folder: Path, megabytes: int):
        super().__init__(folder)
        self.disk = Disk(folder / "disk", megabytes)

    def tablespace_statement(self) -> str:
        """Return the statement that creates the tablespace `small` on the disk. The server must be running."""
        location = self.disk.folder / "tablespace"
        location.mkdir()
        os.chown(location, self.account.uid, self.account.gid)
        return f"CREATE TABLESPACE small LOCATION '{location}'"

    def erase(self) -> None:
        self.disk.unmount()
        super().erase()


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise NotRun("only Linux has tmpfs")
    if os.geteuid() != 0:
        raise NotRun("only root may mount a tmpfs")
