"""Test that a failover keeps the commits before the chosen position, and loses those after it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from sqlalchemy import text

from store.engine import make_engine
from tests.servers import memory_folder
from tests.standby import Failover, MigratedCluster


def test_a_standby_lacks_exactly_the_commits_after_its_position() -> None:
    folder = Path(tempfile.mkdtemp(dir=memory_folder()))
    with MigratedCluster(folder / "cluster") as cluster, Failover(folder, cluster) as failover:
        engine = make_engine(failover.url, "test")

        def names() -> list[str]:
            with engine.connect() as connection:
                return list(connection.scalars(text("SELECT name FROM sources ORDER BY name")))

        def add(name: str) -> None:
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO sources (name) VALUES (:name)"), {"name": name})

        add("kept")
        position = failover.position()
        add("lost")
        assert names() == ["kept", "lost"]
        failover.fail_over(position)
        assert names() == ["kept"]
        add("new")
        assert names() == ["kept", "new"]
        engine.dispose()
    shutil.rmtree(folder)
