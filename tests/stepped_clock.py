"""Start a Postgres whose wall clock a test can set. libfaketime replaces the clock; the monotonic clock stays right."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest

from devstack.process import Account
from tests.servers import MigratedPostgres, memory_folder

LIBRARY = "faketime/libfaketime.so.1"
FOLDERS = (*Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))
NOT_INSTALLED = "libfaketime is not installed; on Debian: apt-get install libfaketime"


def find_library() -> Path | None:
    """Return the path of libfaketime, or None if it is not installed."""
    return next((folder / LIBRARY for folder in FOLDERS if (folder / LIBRARY).is_file()), None)


class SteppedPostgres(MigratedPostgres):
    """A Postgres whose wall clock differs from the host's by a number of seconds, 0 at first."""

    def __init__(self, folder: Path, library: Path):
        super().__init__(folder)
        self._library = library
        # The server may run as another user, which cannot enter its folder, and reads the offset.
        self._clock = Path(tempfile.mkdtemp(prefix="kasparro-clock-"))
        self._clock.chmod(0o755)
        self._offset = self._clock / "offset"
        self.set_clock(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        shutil.rmtree(self._clock, ignore_errors=True)

    def set_clock(self, seconds: float) -> None:
        """Set the clock to the host's clock plus these seconds."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.chmod(0o644)
        new.rename(self._offset)

    def _command(self) -> tuple[Account, list[str | Path]]:
        account, argv = super()._command()
        variables = {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": self._offset,
            "FAKETIME_NO_CACHE": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
            "NO_FAKE_STAT": 1,
        }
        return account, ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), *argv]


@contextmanager
def stepped_postgres() -> Iterator[SteppedPostgres]:
    """Yield a running server. Skip the test if libfaketime is not installed."""
    library = find_library()
    if library is None:
        pytest.skip(NOT_INSTALLED)
    with (
        tempfile.TemporaryDirectory(prefix="kasparro-stepped-", dir=memory_folder()) as folder,
        SteppedPostgres(Path(folder), library) as server,
    ):
        yield server
