"""Change the files of a source while workers read them."""

from __future__ import annotations

import random
import time
from decimal import Decimal
from functools import partial

from tests.changing_file import COLUMNS, CONSTANTS, Writer, records
from tests.chaos.history_file import CHANGES, COIN, NAME, Change, HistoryFile
from tests.chaos.registry import fault
from tests.chaos.stage import Stage

CODE = f'''
"""A source of the fault suite, whose files another program changes."""

from datetime import timedelta

from sources import FileSet, csv_source

source = csv_source(
    "changing",
    timedelta(hours=1),
    [FileSet(pattern="changing/*.csv", columns={COLUMNS!r}, constants={CONSTANTS!r})],
)
'''
SMALL_BLOCKS = {"CSV_BLOCK_BYTES": "4000", "CSV_RECORD_BYTES": "500", "CSV_RANGE_BYTES": "40000"}
BURSTS, MAX_CHANGES = 12, 12
"""A burst of changes begins with a run, and the run ends after it."""

MAX_PAUSE = 0.1

VERBS: dict[Change, str] = {
    "rewrite": "rewritten in place",
    "append": "cut and then appended to",
    "truncate": "cut in the middle of a record",
    "replace": "replaced by one of the same size and modification time",
}


def changed_while_read(change: Change, stage: Stage) -> str:
    """Change the file after a worker has read a page of it, and again before the run ends."""
    file = HistoryFile(stage)
    for other in file.path.parent.rglob("*.csv"):
        if other != file.path:
            other.unlink()
    expected = [row for row in stage.expected_rows["csv_history"] if COIN in str(row[0])]
    stage.expected_rows["csv_history"] = expected
    stage.environ |= SMALL_BLOCKS
    stage.until_ready(stage.start("worker"), stage.start("control"))
    stage.request("csv_history")
    for point in ("after_commit", "after_fetch"):
        stage.arm(point, "SIGSTOP")
        stage.resume()
        stage.wait_until_reached(point)
        file.change(change)
    stage.resume()
    stage.settle()
    stored = {row.price for row in stage.rows("SELECT price FROM quotes")}
    assert file.prices <= stored, "the run ended without a price that the file contained at its end"
    changed = len(stage.rows("SELECT FROM pages WHERE partition LIKE :name || '%'", name=NAME))
    file.restore()
    stage.request("csv_history")
    stage.settle()
    return f"{changed} pages of the changing file; restored, all {len(expected)} records have their original values"


for _change in CHANGES:
    fault(f"a file {VERBS[_change]}, while a worker reads it")(partial(changed_while_read, _change))


@fault("a file changed at random, while workers read it")
def changed_at_random(stage: Stage) -> str:
    """Check that only records that were in the file are stored, and in the end all that it contains."""
    chance = random.Random(stage.servers.seed)
    folder = stage.folder / "csv/changing"
    folder.mkdir(parents=True)
    writer = Writer(folder / "file.csv", chance)
    stage.environ |= {**SMALL_BLOCKS, "CSV_DIR": str(folder.parent), "RUN_WORKERS": "2", "RETRY_AFTER_FAILURE": "0.05"}
    stage.add_sources({"changing": CODE})
    stage.allow_incomplete("changing")  # Quotes of earlier versions of the file remain.
    stage.changed_files.add("changing/file.csv")
    stage.until_ready(stage.start("worker"), stage.start("control"))
    for _ in range(BURSTS):
        stage.request("changing")
        for _ in range(chance.randint(1, MAX_CHANGES)):
            writer.change()
            time.sleep(chance.random() * MAX_PAUSE)
        stage.settle()
    stage.mark_fault()
    final = records(writer.finish())
    stage.request("changing")
    stage.settle()
    quotes = _prices(stage)
    assert quotes.items() <= writer.written, "a quote comes from a record that was never in the file"
    assert {(coin, quotes.get(coin)) for coin, _ in final} <= final, "a record of the file has no quote"
    failed = stage.rows("SELECT error_detail FROM runs WHERE status = 'failed'")
    assert not failed, failed
    return f"{BURSTS + 1} runs; {len(quotes)} quotes from records of the file, with all {len(final)} last ones"


def _prices(stage: Stage) -> dict[str, Decimal]:
    rows = stage.rows("SELECT source_asset_id, price FROM quotes JOIN listings ON listings.id = listing_id")
    return {row.source_asset_id: row.price for row in rows}
