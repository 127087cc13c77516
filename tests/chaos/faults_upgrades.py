"""Migrate the schema from earlier revisions while workers load, and let workers of an earlier version work, too."""

from __future__ import annotations

import random
import shutil
import subprocess
from functools import partial
from pathlib import Path

from store.schema import HEAD, REVISIONS
from tests.chaos.faults_assistants import SHARED
from tests.chaos.faults_workers import start_runs
from tests.chaos.registry import NotRun, fault
from tests.chaos.stage import Stage
from tests.processes import ROLES, ROOT, until
from tests.servers import alembic

SOURCES = ("csv_history", "coingecko")
MIGRATIONS = 4
"""The number of migrations of each half of the revisions."""

EARLIER_VERSIONS = ("0014", "0016", "0019")
"""Revisions whose migration an earlier version lacks: those of set-backs, of the service's clock, and the newest."""

DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def migrated(revisions: tuple[str, ...], stage: Stage) -> str:
    """Set the schema back and migrate it again, while runs are under way. The runner checks that no run failed."""
    chance = random.Random(stage.servers.seed)
    start_runs(stage, *SOURCES)
    drawn = sorted(chance.sample(revisions, MIGRATIONS), reverse=True)
    for revision in drawn:
        if not stage.unfinished():
            stage.request(*SOURCES)
        stage.mark_fault()
        alembic(stage.environ["DATABASE_URL"], "downgrade", revision)
        alembic(stage.environ["DATABASE_URL"], "upgrade", "head")
        pages = _pages(stage)
        until(partial(_has_progressed, stage, pages), what="further pages")
    stage.settle()
    assert stage.revision() == HEAD
    stage.request(*SOURCES)
    stage.settle()
    return f"from {', '.join(drawn)}; no run failed, {stage.scalar(DEADLOCKS)} deadlocks"


_HALF = len(REVISIONS) // 2
fault("migrations from early revisions while workers load")(partial(migrated, REVISIONS[:_HALF]))
fault("migrations from recent revisions while workers load")(partial(migrated, REVISIONS[_HALF:-1]))


def both_versions(revision: str, stage: Stage) -> str:
    """Let a worker of the version before this revision and one of this version load at once, on the new schema."""
    code = _check_out_before(revision, stage.folder / "earlier")
    stage.environ |= SHARED
    earlier = stage.start("worker", ["env", "-C", str(code), *ROLES["worker"]], PYTHONPATH=str(code))
    stage.until_ready(earlier, stage.start("worker"), stage.start("control"))
    for _ in range(3):
        stage.request(*SOURCES)
        stage.settle()
    pages = earlier.log.read_text().count('"page_committed"')
    assert pages, "the worker of the earlier version committed no page"
    return f"the worker of the earlier version committed {pages} of {_pages(stage)} pages"


for _revision in EARLIER_VERSIONS:
    fault(f"a worker of the version before revision {_revision} next to a new one, on the new schema")(
        partial(both_versions, _revision)
    )


def _check_out_before(revision: str, folder: Path) -> Path:
    """Return a folder with the code of the last version without this revision. Raise NotRun without its history."""
    if shutil.which("git") is None:
        raise NotRun("git is not installed")
    [migration] = (ROOT / "store/migrations/versions").glob(f"{revision}_*.py")
    log = ["git", "log", "--diff-filter=A", "--format=%H", "--", str(migration.relative_to(ROOT))]
    added = subprocess.run(log, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not added:
        raise NotRun("the history of the code is not available; run the suite in a clone of the repository")
    folder.mkdir()
    command = f"git archive {added[-1]}^ | tar -x -C '{folder}'"
    if subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=False).returncode:  # nosec B602
        raise NotRun("the history of the code is incomplete; run the suite in a full clone of the repository")
    return folder


def _pages(stage: Stage) -> int:
    return int(stage.scalar("SELECT count(*) FROM pages"))


def _has_progressed(stage: Stage, pages: int) -> bool:
    return _pages(stage) > pages or not stage.unfinished()
