"""A Postgres on a disk so small that a test can fill it: a tmpfs, taken away with the server."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from devstack.postgres import Postgres
from tests.chaos.stage import NotRun

CHUNK = 4096


class Disk:
    """What is left of its room is a matter of what else lies on it: fill() takes all, make_room() gives that back."""

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
            raise NotRun(f"mounting a tmpfs is refused here: {mounted.stderr.strip()}")

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(CHUNK))

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def take_away(self) -> None:
        # At once for everybody, though a process may still have it open.
        subprocess.run(["umount", "--lazy", self.folder], capture_output=True, check=False)


class PostgresOnADisk(Postgres):
    """With all its data on the disk."""

    def __init__(self, folder: Path, megabytes: int):
        super().__init__(folder)
        self.disk = Disk(self.root, megabytes)

    def erase(self) -> None:
        self.disk.take_away()
        super().erase()


class PostgresWithADisk(Postgres):
    """With the disk for the tables that `use_disk` moves there; the log and all else lie elsewhere."""

    def __init__(self, folder: Path, megabytes: int):
        super().__init__(folder)
        self.disk = Disk(folder / "disk", megabytes)

    def make_tablespace(self) -> str:
        """The statement that makes a tablespace of the disk; the server must be running."""
        room = self.disk.folder / "tablespace"
        room.mkdir()
        os.chown(room, self.account.uid, self.account.gid)
        return f"CREATE TABLESPACE small LOCATION '{room}'"

    def erase(self) -> None:
        self.disk.take_away()
        super().erase()


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise NotRun("a tmpfs is Linux's")
    if os.geteuid() != 0:
        raise NotRun("only root may mount a tmpfs")
