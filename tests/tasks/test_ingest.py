"""How a slice ends, and what its run does then: go on, wait, give up, or be somebody else's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from sources.contract import Http, Page, Source, TerminalError, TransientError, Window
from tasks.ingest import work_on
from tasks.runs.claims import ClaimLost, claim_run
from tasks.runs.leases import LeaseLost, take_lease
from tasks.runs.reconciler import reconcile
from tasks.runs.requests import pause_source, request_cancel
from tasks.runtime.safe_text import MAX_DETAIL
from tests.tasks.conftest import Bench
from tests.upstreams import canned, item


def test_a_transient_error_makes_the_run_wait_as_long_as_the_upstream_says(bench: Bench) -> None:
    def rate_limited(number: int) -> None:
        raise TransientError("too many calls", code="rate_limited", retry_after=53)

    run = bench.ingest(canned([item()], before=rate_limited))
    assert run["status"] == "waiting"
    assert re.fullmatch(r"rate_limited: too many calls; looks again at 20\S+Z", run["waiting_reason"])
    assert bench.one("SELECT next_attempt_at - clock_timestamp() BETWEEN '50s' AND '53s' FROM runs")
    assert claim_run(bench.engine, run["id"]) is None
    assert bench.one("SELECT lease_run FROM checkpoints") is None


def test_a_run_gives_up_after_so_many_waits_and_a_committed_page_starts_the_count_anew(bench: Bench) -> None:
    down = {1, 2, 3, 5, 6, 7, 8, 9}
    tries: list[int] = []

    def sometimes(number: int) -> None:
        tries.append(number)
        if len(tries) in down:
            raise TransientError("down")

    run = bench.request(canned([item(0)], [item(1)], before=sometimes))
    for _ in range(20):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        if bench.slice(run, max_waits=3, task_slice=0)["status"] == "failed":
            break
    assert tries == [0, 0, 0, 0, 1, 1, 1, 1]
    assert bench.run(run)["error_code"] == "upstream_unavailable"
    assert "gave up after 3 waits" in bench.run(run)["error_detail"]


def test_a_page_committed_in_the_same_slice_starts_the_count_of_waits_anew(bench: Bench) -> None:
    tries: list[int] = []

    def down_but_for_the_first_page(number: int) -> None:
        tries.append(number)
        if number == 1 or len(tries) <= 3:
            raise TransientError("down")

    run = bench.request(canned([item(0)], [item(1)], before=down_but_for_the_first_page))
    for _ in range(4):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        row = bench.slice(run, max_waits=4)
    assert tries == [0, 0, 0, 0, 1]
    assert (row["status"], row["waits"]) == ("waiting", 1)


def test_a_limit_of_our_own_is_no_failure_however_often(bench: Bench) -> None:
    def limited(number: int) -> None:
        raise TransientError("used up", code="rate_limited", retry_after=0.001, is_failure=False)

    run = bench.request(canned([item(0)], before=limited))
    for _ in range(5):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        row = bench.slice(run, max_waits=2, retry_after_failure=60.0)
    assert (row["status"], row["waits"]) == ("waiting", 0)
    assert bench.one("SELECT next_attempt_at < clock_timestamp() + interval '5 s' FROM runs")


def test_an_upstream_that_says_retry_after_for_ever_is_asked_with_growing_gaps_and_given_up(bench: Bench) -> None:
    def limited(number: int) -> None:
        raise TransientError("slow down", code="rate_limited", retry_after=100)

    run = bench.request(canned([item(0)], before=limited))
    gaps: list[float] = []
    for _ in range(6):
        bench.rows("UPDATE runs SET next_attempt_at = NULL WHERE status = 'waiting'")
        row = bench.slice(run, max_waits=5, retry_after_failure=30.0)
        if row["status"] == "waiting":
            gaps.append(bench.one("SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8 FROM runs"))
    assert (row["error_code"], row["error_detail"]) == ("rate_limited", "slow down; gave up after 5 waits")
    assert [round(gap, -1) for gap in gaps] == [100, 100, 120, 240, 480]


def test_a_run_that_may_wait_for_ever_does(bench: Bench) -> None:
    def down(number: int) -> None:
        raise TransientError("down")

    run = bench.request(canned([item(0)], before=down))
    bench.rows("UPDATE runs SET waits = 100000")
    assert bench.slice(run, max_waits=10**9)["status"] == "waiting"
    assert bench.one("SELECT next_attempt_at < clock_timestamp() + interval '15 min' FROM runs")


def test_a_run_that_would_wait_or_go_on_ends_if_it_was_cancelled_meanwhile(bench: Bench) -> None:
    def cancelled_then_down(number: int) -> None:
        request_cancel(bench.engine, run)
        raise TransientError("down")

    run = bench.request(canned([item(0)], before=cancelled_then_down))
    ended = bench.slice(run)
    assert (ended["status"], bool(ended["finished_at"])) == ("cancelled", True)


def test_a_cancelled_run_whose_worker_is_gone_is_closed(bench: Bench) -> None:
    run = bench.request(canned([item(0)]))
    assert claim_run(bench.engine, run)
    assert request_cancel(bench.engine, run) == "running"
    bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
    reconcile(bench.engine, bench.settings)
    assert bench.run(run)["status"] == "cancelled"


def test_what_waiting_cannot_mend_fails_the_run_and_pauses_the_source(bench: Bench) -> None:
    def refused(number: int) -> None:
        raise TerminalError("quota used up", code="payment_required", pause=timedelta(days=1))

    run = bench.ingest(canned([item()], before=refused))
    assert (run["status"], run["error_code"], run["error_detail"]) == ("failed", "payment_required", "quota used up")
    assert bench.one("SELECT paused_until > clock_timestamp() + interval '23h' FROM sources WHERE name = 'canned'")
    waiting = bench.ingest(canned([item()]))
    assert waiting["status"] == "waiting"
    assert "paused" in waiting["waiting_reason"]


def test_a_partition_that_cannot_be_read_does_not_keep_the_others_out(bench: Bench) -> None:
    source = canned([item(0)], partitions=("a.csv", "bad.csv", "c.csv"))
    whole = source.fetch

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        if window.partition == "bad.csv":
            raise TerminalError("bad.csv: cannot be read", code="file_unreadable")
        return whole(window, http)

    run = bench.ingest(replace(source, fetch=fetch))
    assert (run["status"], run["error_code"]) == ("failed", "file_unreadable")
    assert "bad.csv" in run["error_detail"]
    assert [row["partition"] for row in bench.rows("SELECT partition FROM pages ORDER BY 1")] == ["a.csv", "c.csv"]


def test_a_bug_in_a_source_fails_its_run_and_shows_no_trace_to_readers(bench: Bench) -> None:
    def broken(number: int) -> None:
        raise ZeroDivisionError("secret detail")

    run = bench.ingest(canned([item()], before=broken))
    assert (run["status"], run["error_code"]) == ("failed", "internal_error")
    assert run["error_detail"] == "ZeroDivisionError; the log has the traceback"


def test_a_slice_whose_run_has_ended_meanwhile_writes_nothing_more(bench: Bench) -> None:
    def end_it(number: int) -> None:
        if number == 1:
            bench.rows("UPDATE runs SET status = 'failed', finished_at = clock_timestamp()")

    run = bench.request(canned([item(0)], [item(1)], before=end_it))
    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(ClaimLost):
        work_on(bench.engine, bench.settings, claim)
    assert bench.one("SELECT count(*) FROM pages") == 1
    assert bench.run(run)["status"] == "failed"


def test_what_an_error_says_is_stored_short_and_without_what_postgres_refuses(bench: Bench) -> None:
    def says_too_much(number: int) -> None:
        raise TransientError("a\x00b\ud800" + "x" * 5000)

    run = bench.ingest(canned([item(0)], before=says_too_much))
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("upstream_unavailable: ab?xxx")
    assert 2000 <= len(run["waiting_reason"]) < 2050


def test_an_operators_pause_is_not_shortened_by_a_failure(bench: Bench) -> None:
    def refused(number: int) -> None:
        pause_source(bench.engine, "canned", None, "until the contract is signed")
        raise TerminalError("no key", code="key_refused", pause=timedelta(hours=1))

    assert bench.ingest(canned([item()], before=refused))["status"] == "failed"
    [source] = bench.rows("SELECT paused_until, paused_reason FROM sources WHERE name = 'canned'")
    assert dict(source) == {"paused_until": None, "paused_reason": "until the contract is signed"}


def test_a_partition_that_must_wait_does_not_keep_the_others_out(bench: Bench) -> None:
    source = canned([item(0)], partitions=("changing.csv", "still.csv"))
    whole = source.fetch

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        if window.partition == "changing.csv":
            raise TransientError("it changed while it was read", code="file_changed")
        return whole(window, http)

    run = bench.ingest(replace(source, fetch=fetch))
    assert run["status"] == "waiting"
    assert run["waiting_reason"].startswith("file_changed: it changed while it was read; ")
    assert [row["partition"] for row in bench.rows("SELECT partition FROM pages")] == ["still.csv"]


def without_gaps(bench: Bench, run: UUID, **settings: Any) -> list[str]:
    """The statuses of the run, slice after slice, without the waits between them."""
    statuses: list[str] = []
    while len(statuses) < 30:
        bench.rows("UPDATE runs SET next_attempt_at = NULL")
        row = bench.slice(run, **settings)
        statuses.append(row["status"])
        if row["finished_at"]:
            return statuses
    raise AssertionError(f"the run goes on for ever: {dict(row)}")


def shaky(errors: Mapping[str, Exception], asked: list[str], **changes: Any) -> Source:
    """A source of four files with a quote each, a.csv to d.csv; those in `errors` raise."""
    source = canned([item(0)], partitions=("a.csv", "b.csv", "c.csv", "d.csv"), **changes)
    whole = source.fetch

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        letter = window.partition[0]
        asked.append(letter)
        if letter in errors:
            raise errors[letter]
        return whole(window, http)

    return replace(source, fetch=fetch)


def brought_in(bench: Bench) -> list[str]:
    return [row["partition"] for row in bench.rows("SELECT partition FROM pages ORDER BY 1")]


def test_partitions_that_cannot_be_read_are_asked_once_in_a_run_of_many_slices_and_all_named(bench: Bench) -> None:
    asked: list[str] = []
    errors = {
        "a": TerminalError("a.csv: cannot be read", code="file_unreadable", pause=timedelta(hours=1)),
        "b": TerminalError("no header\x00", code="bad_header"),
    }
    run = bench.request(shaky(errors, asked))
    statuses = without_gaps(bench, run, task_slice=0)
    assert (statuses, "".join(asked)) == (["queued"] * 5 + ["failed"], "abccdd")
    ended = bench.run(run)
    assert (ended["error_code"], ended["error_detail"]) == (
        "file_unreadable",
        "a.csv: cannot be read; b.csv: no header",
    )
    assert brought_in(bench) == ["c.csv", "d.csv"]
    assert bench.one("SELECT paused_until > clock_timestamp() + interval '59 min' FROM sources WHERE name = 'canned'")


def test_a_partition_that_can_be_read_again_fails_no_later_run(bench: Bench) -> None:
    errors: dict[str, Exception] = {"b": TerminalError("cannot be read", code="file_unreadable")}
    assert bench.ingest(shaky(errors, []))["error_detail"] == "b.csv: cannot be read"
    errors.clear()
    assert bench.ingest(shaky(errors, []))["status"] == "succeeded"
    assert bench.one("SELECT count(*) FROM checkpoints WHERE error IS NOT NULL OR failed_by IS NOT NULL") == 0


def test_a_file_that_had_to_wait_and_then_is_gone_fails_no_run(bench: Bench) -> None:
    source = shaky({"a": TransientError("it changed while it was read", code="file_changed")}, [])
    run = bench.request(source)
    assert bench.slice(run)["status"] == "waiting"
    bench.register(replace(source, partitions=lambda: ("b.csv", "c.csv", "d.csv")))
    assert without_gaps(bench, run) == ["succeeded"]


def test_so_many_partitions_that_cannot_be_read_are_counted_where_they_are_not_named(bench: Bench) -> None:
    partitions = [f"{number:03}.csv" for number in range(100)]

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        raise TerminalError("x" * 200, code="file_unreadable")

    ended = bench.ingest(replace(canned(partitions=partitions), fetch=fetch))
    assert len(ended["error_detail"]) <= MAX_DETAIL
    named = ended["error_detail"].count(".csv: xxx")
    assert 5 < named < 12
    assert ended["error_detail"].endswith(f"; and {100 - named} more")


def test_partitions_that_must_wait_are_tried_again_after_all_others_and_so_many_times_only(bench: Bench) -> None:
    asked: list[str] = []
    errors = {
        "a": TransientError("a.csv is down"),
        "b": TransientError("no answer"),
        "c": TerminalError("c.csv: cannot be read", code="file_unreadable"),
    }
    run = bench.request(shaky(errors, asked))
    statuses = without_gaps(bench, run, task_slice=0, max_waits=2)
    # While there are partitions that were not tried, to go on is progress.
    assert "".join(asked) == "abcdd" + "aba"
    assert statuses == ["queued"] * 5 + ["waiting"] * 2 + ["failed"]
    ended = bench.run(run)
    assert (ended["error_code"], brought_in(bench)) == ("upstream_unavailable", ["d.csv"])
    assert ended["error_detail"] == "a.csv is down; gave up after 2 waits; b.csv: no answer; c.csv: cannot be read"


def test_a_partition_that_keeps_its_slice_waiting_does_not_keep_the_others_out(bench: Bench) -> None:
    asked: list[str] = []
    errors = {"a": TransientError("slow down", code="rate_limited", retry_after=1)}
    run = bench.request(shaky(errors, asked))
    assert without_gaps(bench, run, task_slice=0, max_waits=2)[-1] == "failed"
    assert ("".join(asked), brought_in(bench)) == ("abbccddaaa", ["b.csv", "c.csv", "d.csv"])


def test_a_limit_of_our_own_does_not_hide_that_partitions_fail(bench: Bench) -> None:
    """Else the breaker that they open would keep their run alive for ever."""
    asked: list[str] = []
    held_back = TransientError("used up", code="rate_limited", retry_after=7000, is_failure=False)
    errors: dict[str, Exception] = {"a": TransientError("a is down"), "b": TransientError("b is down"), "c": held_back}
    run = bench.request(shaky(errors, asked))
    row = bench.slice(run)
    # c was not asked: it is not its turn to stand back, and the run is not to give up on it.
    assert (row["waits"], row["waiting_reason"][:21], "".join(asked)) == (0, "rate_limited: used up", "abc")
    errors["b"] = held_back
    del errors["c"]
    bench.rows("UPDATE runs SET next_attempt_at = NULL")
    row = bench.slice(run)
    assert (row["waits"], row["waiting_reason"][:31], "".join(asked)) == (
        1,
        "upstream_unavailable: a is down",
        "abc" + "cdab",
    )
    assert bench.one("SELECT next_attempt_at > clock_timestamp() + interval '6900 s' FROM runs")


def test_a_slice_ends_in_time_between_partitions_and_the_next_goes_on_from_there(bench: Bench) -> None:
    looked_at: list[str] = []

    def fetch(window: Window, http: Http) -> Iterator[Page]:
        looked_at.append(window.partition)
        return iter(())

    run = bench.request(replace(canned(partitions=("a", "b", "c")), fetch=fetch))
    statuses = [bench.slice(run, task_slice=0)["status"] for _ in range(3)]
    assert statuses == ["queued", "queued", "succeeded"]
    assert looked_at == ["a", "b", "c"]


def test_a_slice_that_was_given_up_for_dead_writes_nothing_more(bench: Bench) -> None:
    run = bench.request(canned([item(0)], [item(1)], before=lambda number: usurp(number)))

    def usurp(number: int) -> None:
        if number == 1:
            bench.rows("UPDATE checkpoints SET lease_token = lease_token + 1")

    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(LeaseLost):
        work_on(bench.engine, bench.settings, claim)
    assert bench.one("SELECT count(*) FROM quotes") == 1
    assert bench.one("SELECT count(*) FROM pages") == 1
    assert bench.one("SELECT cursor->>'next' FROM checkpoints") == "1"


def test_a_slice_whose_run_was_claimed_anew_cannot_end_it(bench: Bench) -> None:
    def reclaim(number: int) -> None:
        bench.rows("UPDATE runs SET claims = claims + 1")

    run = bench.request(canned([], before=reclaim))
    claim = claim_run(bench.engine, run)
    assert claim
    with pytest.raises(ClaimLost):
        work_on(bench.engine, bench.settings, claim)
    assert bench.run(run)["status"] == "running"


def test_a_partition_leased_to_another_run_makes_a_run_step_aside(bench: Bench) -> None:
    bench.ingest(canned([item(0)]))
    bench.rows("UPDATE checkpoints SET lease_run = gen_random_uuid(), lease_expires = clock_timestamp() + '3 s'")
    run = bench.ingest(canned([item(1)]))
    assert run["status"] == "waiting"
    assert "is leased to run" in run["waiting_reason"]
    assert bench.one("SELECT count(*) FROM quotes") == 1


def test_a_run_whose_starts_all_die_is_poisoned_says_where_and_pauses_its_source(bench: Bench) -> None:
    run = bench.request(canned([item(0)], [item(1)]))
    bench.slice(run, task_slice=0)
    for _ in range(bench.settings.max_attempts):
        assert bench.run(run)["status"] == "queued"
        claim = claim_run(bench.engine, run)
        assert claim
        take_lease(bench.engine, claim, "", 0)  # and then its worker is gone
        bench.rows("UPDATE runs SET claimed_at = clock_timestamp() - interval '1h'")
        reconcile(bench.engine, bench.settings)
    ended = bench.run(run)
    assert (ended["status"], ended["error_code"]) == ("failed", "poisoned")
    assert "partition '' after cursor" in ended["error_detail"]
    assert "'next': 1" in ended["error_detail"]
    assert bench.one("SELECT paused_reason LIKE 'poisoned: %' FROM sources WHERE name = 'canned'")


def test_partitions_that_cannot_even_be_listed_are_named(bench: Bench) -> None:
    def partitions() -> list[str]:
        raise TerminalError("/nowhere: no such folder", code="csv_dir_unreadable")

    run = bench.ingest(replace(canned([item()]), partitions=partitions))
    assert (run["status"], run["error_code"], run["error_detail"]) == (
        "failed",
        "csv_dir_unreadable",
        "/nowhere: no such folder",
    )


def test_a_cancelled_run_ends_before_its_next_page(bench: Bench) -> None:
    def cancel(number: int) -> None:
        if number == 1:
            assert request_cancel(bench.engine, run) == "running"

    run = bench.request(canned([item(0)], [item(1)], before=cancel))
    ended = bench.slice(run)
    assert (ended["status"], bool(ended["finished_at"])) == ("cancelled", True)
    assert bench.one("SELECT count(*) FROM quotes") == 1
    assert bench.one("SELECT lease_run FROM checkpoints") is None
