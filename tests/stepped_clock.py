"""Start a Postgres whose wall clock a test can set. libfaketime replaces the clock; the monotonic clock stays right."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from devstack.process import Account
from tests.servers import MigratedPostgres

LIBRARY = "faketime/libfaketime.so.1"
FOLDERS = (*Path("/usr/lib").glob("*-linux-gnu"), Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib"))


class SteppedPostgres(MigratedPostgres):
    """A Postgres whose wall clock differs from the host's by a number of seconds, 0 at first."""

    def __init__(self, folder: Path, library: Path):
        super().__init__(folder)
        self._library, self._offset = library, folder / "offset"
        self.set_clock(0)

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
    libraries = [folder / LIBRARY for folder in FOLDERS if (folder / LIBRARY).is_file()]
    if not libraries:
        pytest.skip("libfaketime is not installed; on Debian: apt-get install libfaketime")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kasparro-clock-")))
        folder.chmod(0o755)  # The server may run as another user, and reads the offset.
        server = stack.enter_context(SteppedPostgres(folder, libraries[0]))
        yield server
