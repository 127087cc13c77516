"""Test that an unreadable partition does not stop other partitions, and that the run's error names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from sources.contract import Http, Page, Source, TerminalError, TransientError, Window
from tasks.runs.claims import Claim
from tasks.runs.leases import release_lease, take_lease
from tasks.runs.partitions import find_unleased_partition
from tasks.runtime.safe_text import MAX_DETAIL_CHARS
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def work_until_finished(bench: Bench, run: UUID, **settings: Any) -> list[str]:
    """Work on a run slice by slice, without its waits, until it ends. Return its status after each slice."""
    statuses: list[str] = []
    while len(statuses) < 30:
        bench.rows("UPDATE runs SET next_attempt_at = NULL")
        row = bench.slice(run, **settings)
        statuses.append(row["status"])
        if row["finished_at"]:
            return statuses
    raise AssertionError(f"the run does not end: {dict(row)}")


def failing_source(errors: Mapping[str, Exception], fetched: list[str], **changes: Any) -> Source:
    """Return a source of four files, a.csv to d.csv, with one quote each. Files in `errors` raise their error.

    The list `fetched` collects the letter of each fetched file.
    """
    source = canned([item(0)], partitions=("a.csv", "b.csv", "c.csv", "d.csv"), **changes)
    fetch_page = source.fetch

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        letter = window.partition[0]
        fetched.append(letter)
        if letter in errors:
            raise errors[letter]
        return fetch_page(window, http)

    return replace(source, fetch=fetch)


def loaded_partitions(bench: Bench) -> list[str]:
    return [row["partition"] for row in bench.rows("SELECT partition FROM pages ORDER BY 1")]


def test_an_unreadable_partition_does_not_stop_the_other_partitions(bench: Bench) -> None:
    source = canned([item(0)], partitions=("a.csv", "bad.csv", "c.csv"))
    fetch_page = source.fetch

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        if window.partition == "bad.csv":
            raise TerminalError("bad.csv: cannot be read", code="file_unreadable")
        return fetch_page(window, http)

    run = bench.ingest(replace(source, fetch=fetch))
    assert (run["status"], run["error_code"]) == ("failed", "file_unreadable")
    assert "bad.csv" in run["error_detail"]
    assert loaded_partitions(bench) == ["a.csv", "c.csv"]


def test_a_waiting_partition_does_not_stop_the_other_partitions(bench: Bench) -> None:
    source = canned([item(0)], partitions=("changing.csv", "still.csv"))
    fetch_page = source.fetch

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        if window.partition == "changing.csv":
            raise TransientError("it changed while it was read", code="file_changed")
        return fetch_page(window, http)

    run = bench.ingest(replace(source, fetch=fetch))
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("file_changed: it changed while it was read; ")
    assert loaded_partitions(bench) == ["still.csv"]


def test_a_run_tries_each_unreadable_partition_once_and_names_all_of_them(bench: Bench) -> None:
    fetched: list[str] = []
    errors = {
        "a": TerminalError("a.csv: cannot be read", code="file_unreadable", pause=timedelta(hours=1)),
        "b": TerminalError("no header\x00", code="bad_header"),
    }
    run = bench.request(failing_source(errors, fetched))
    statuses = work_until_finished(bench, run, task_slice=0)
    assert (statuses, "".join(fetched)) == (["queued"] * 5 + ["failed"], "abccdd")
    row = bench.run(run)
    assert (row["error_code"], row["error_detail"]) == (
        "file_unreadable",
        "a.csv: cannot be read; b.csv: no header",
    )
    assert loaded_partitions(bench) == ["c.csv", "d.csv"]
    assert bench.one("SELECT paused_until > clock_timestamp() + interval '59 min' FROM sources WHERE name = 'canned'")


def test_the_next_run_succeeds_after_its_partitions_become_readable(bench: Bench) -> None:
    errors: dict[str, Exception] = {"b": TerminalError("cannot be read", code="file_unreadable")}
    assert bench.ingest(failing_source(errors, []))["error_detail"] == "b.csv: cannot be read"
    errors.clear()
    assert bench.ingest(failing_source(errors, []))["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM checkpoints WHERE error IS NOT NULL OR failed_by IS NOT NULL") == 0


def test_a_waiting_file_that_is_deleted_does_not_fail_its_run(bench: Bench) -> None:
    source = failing_source({"a": TransientError("it changed while it was read", code="file_changed")}, [])
    run = bench.request(source)
    assert bench.slice(run)["status"] == "waiting"
    bench.register(replace(source, partitions=lambda: ("b.csv", "c.csv", "d.csv")))
    assert work_until_finished(bench, run) == ["succeeded"]


def test_the_error_counts_the_unreadable_partitions_that_it_does_not_name(bench: Bench) -> None:
    partitions = [f"{number:03}.csv" for number in range(100)]

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        raise TerminalError("x" * 200, code="file_unreadable")

    run = bench.ingest(replace(canned(partitions=partitions), fetch=fetch))
    assert len(run["error_detail"]) <= MAX_DETAIL_CHARS
    count = run["error_detail"].count(".csv: xxx")
    assert 5 < count < 12
    assert run["error_detail"].endswith(f"; and {100 - count} more")


def test_waiting_partitions_are_retried_last_and_at_most_max_waits_times(bench: Bench) -> None:
    fetched: list[str] = []
    errors = {
        "a": TransientError("a.csv is down"),
        "b": TransientError("no response"),
        "c": TerminalError("c.csv: cannot be read", code="file_unreadable"),
    }
    run = bench.request(failing_source(errors, fetched))
    statuses = work_until_finished(bench, run, task_slice=0, max_waits=2)
    # Waits do not count while the run still makes progress with other partitions.
    assert "".join(fetched) == "abcdd" + "aba"
    assert statuses == ["queued"] * 5 + ["waiting"] * 2 + ["failed"]
    row = bench.run(run)
    assert (row["error_code"], loaded_partitions(bench)) == ("upstream_unavailable", ["d.csv"])
    assert row["error_detail"] == "a.csv is down; gave up after 2 waits; b.csv: no response; c.csv: cannot be read"


def test_a_rate_limited_partition_does_not_stop_the_other_partitions(bench: Bench) -> None:
    fetched: list[str] = []
    errors = {"a": TransientError("slow down", code="rate_limited", retry_after=1)}
    run = bench.request(failing_source(errors, fetched))
    assert work_until_finished(bench, run, task_slice=0, max_waits=2)[-1] == "failed"
    assert ("".join(fetched), loaded_partitions(bench)) == ("abbccddaaa", ["b.csv", "c.csv", "d.csv"])


def test_our_own_rate_limit_does_not_hide_failing_partitions(bench: Bench) -> None:
    """Otherwise, an open circuit breaker would keep the run of a failing host waiting forever."""
    fetched: list[str] = []
    limit = TransientError("used up", code="rate_limited", retry_after=7000, is_failure=False)
    errors: dict[str, Exception] = {"a": TransientError("a is down"), "b": TransientError("b is down"), "c": limit}
    run = bench.request(failing_source(errors, fetched))
    row = bench.slice(run)
    # The upstream did not receive the request for c. So c is tried first next time, and the wait does not count.
    assert (row["waits"], row["waiting_reason"][:21], "".join(fetched)) == (0, "rate_limited: used up", "abc")
    errors["b"] = limit
    del errors["c"]
    bench.rows("UPDATE runs SET next_attempt_at = NULL")
    row = bench.slice(run)
    assert (row["waits"], row["waiting_reason"][:31], "".join(fetched)) == (
        1,
        "upstream_unavailable: a is down",
        "abc" + "cdab",
    )
    assert bench.one("SELECT next_attempt_at > clock_timestamp() + interval '6900 s' FROM runs")


def test_a_slice_can_end_between_partitions_and_the_next_slice_continues(bench: Bench) -> None:
    fetched: list[str] = []

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        fetched.append(window.partition)
        return iter(())

    run = bench.request(replace(canned(partitions=("a", "b", "c")), fetch=fetch))
    statuses = [bench.slice(run, task_slice=0)["status"] for _ in range(3)]
    assert statuses == ["queued", "queued", "succeeded"]
    assert fetched == ["a", "b", "c"]


def test_the_error_for_an_unreadable_folder_names_it(bench: Bench) -> None:
    def partitions() -> list[str]:
        raise TerminalError("/nowhere: no such folder", code="csv_dir_unreadable")

    run = bench.ingest(replace(canned([item()]), partitions=partitions))
    assert (run["status"], run["error_code"], run["error_detail"]) == (
        "failed",
        "csv_dir_unreadable",
        "/nowhere: no such folder",
    )


def test_the_first_partition_that_is_neither_leased_nor_done_is_prefetched(
    bench: Bench, claims: tuple[Claim, Claim]
) -> None:
    claim, assistant = claims
    release_lease(bench.engine, take_lease(bench.engine, claim, "a", 60), done=True)
    take_lease(bench.engine, assistant, "b", 60)
    bench.rows("INSERT INTO checkpoints (source, partition, cursor) VALUES ('canned', 'c', '{\"next\": 7}')")
    assert find_unleased_partition(bench.engine, claim, ["a", "b", "c"]) == ("c", {"next": 7})
    assert find_unleased_partition(bench.engine, claim, ["a", "d", "c"]) == ("d", None)
    assert find_unleased_partition(bench.engine, claim, ["a", "b"]) is None
