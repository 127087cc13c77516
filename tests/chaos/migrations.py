"""Migrate the schema in the background, while other faults happen."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress

from store.schema import HEAD
from tests.chaos.stage import Stage
from tests.servers import alembic


class Migrations:
    """The migrations of one stage. A fault may interrupt them: finish() runs the rest."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._log = stage.folder / "alembic.log"
        self._thread: threading.Thread | None = None

    def start(self, revision: str) -> None:
        """Set the schema back to a revision and migrate it again, in the background."""
        self.finish()
        self._thread = threading.Thread(target=self._migrate, args=(revision,), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the migrations in the background. If the schema is behind, migrate it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._stage.revision() != HEAD:
            self._alembic("upgrade", "head")

    def _migrate(self, revision: str) -> None:
        with suppress(subprocess.CalledProcessError):  # Postgres was killed, or connections were cut.
            self._alembic("downgrade", revision)
            self._alembic("upgrade", "head")

    def _alembic(self, *command: str) -> None:
        alembic(self._stage.environ["DATABASE_URL"], *command, log=self._log)
