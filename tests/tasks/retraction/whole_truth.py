"""Write CSV files that are the whole truth about a source, and refresh the source from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping

from sources.contract import Source
from tasks.integrity.checks import CHECKS
from tasks.integrity.verify import verify_data
from tests.sources.csv_folder import environment
from tests.tasks.conftest import Bench
from tests.tasks.retraction.closes import truth_source

HEADER = "coin,price,time\n"
DAY = "2026-01-{:02}T00:00:00Z"

QUOTES = """
    SELECT source_asset_id || to_char(observed_at AT TIME ZONE 'UTC', 'DD') AS quote, price::text
      FROM quotes JOIN listings ON listings.id = listing_id ORDER BY 1
"""
NOT_CONSERVED = """
    SELECT name, quotes_dropped, inserted, quotes
      FROM sources
      LEFT JOIN (SELECT source, sum(inserted) AS inserted FROM pages GROUP BY 1) AS p ON p.source = name
      LEFT JOIN (SELECT source, count(*) AS quotes
                   FROM quotes JOIN listings ON listings.id = listing_id GROUP BY 1) AS q ON q.source = name
     WHERE coalesce(inserted, 0) - quotes_dropped <> coalesce(quotes, 0)
"""


def row(coin: str, day: int, price: object = 1) -> str:
    return f"{coin},{price},{DAY.format(day)}\n"


@dataclass
class Truth:
    """The files of a source, and the service that loads them."""

    bench: Bench
    folder: Path
    source: Source

    def write(self, file: str, *rows: str) -> None:
        """Replace a file, as a program that renames a complete file into place does."""
        new = self.folder / f"{file}.new"
        new.write_text(HEADER + "".join(rows))
        new.rename(self.folder / file)

    def refresh(self, **parameters: Any) -> RowMapping:
        """Request a full refresh, and work on it until it ends. Return its row."""
        return self.finish(self.bench.request(self.source, full_refresh=True, **parameters))

    def finish(self, run: Any, **settings: Any) -> RowMapping:
        """Work on a run until it ends, without its waits. Return its row."""
        for _ in range(100):
            row = self.bench.slice(run, **settings)
            if row["finished_at"]:
                return row
            self.bench.rows("UPDATE runs SET next_attempt_at = service_time() WHERE id = :run", run=run)
        raise AssertionError(f"the run does not end: {row['status']} {row['waiting_reason']}")

    def load(self) -> RowMapping:
        """Load what is new in the files, as the schedule does."""
        return self.finish(self.bench.request(self.source))

    @property
    def quotes(self) -> dict[str, str]:
        """Return the prices of the stored quotes. Their keys are a coin and a day, such as btc01."""
        return {quote["quote"]: quote["price"] for quote in self.bench.rows(QUOTES)}

    def assert_consistent(self) -> None:
        """Assert that every quote is counted, and that all checks of the stored data pass."""
        assert self.bench.rows(NOT_CONSERVED) == []
        self.bench.rows("DELETE FROM integrity")
        verify_data(self.bench.engine)
        violations = {
            row["name"]: row["violations"] for row in self.bench.rows("SELECT name, violations FROM integrity")
        }
        assert violations == {check.name: 0 for check in CHECKS}


@contextmanager
def truth_in(bench: Bench, folder: Path, source: Source | None = None, **settings: str) -> Iterator[Truth]:
    """Yield the files of a source in a folder."""
    with environment(CSV_DIR=str(folder), **settings):
        yield Truth(bench, folder, source or truth_source())


def days(coin: str, numbers: Sequence[int]) -> list[str]:
    return [row(coin, number) for number in numbers]
