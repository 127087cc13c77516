"""Test that a full refresh deletes exactly the quotes that no file contains any longer, or nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sources.contract import Rate
from tests.tasks.conftest import Bench
from tests.tasks.retraction.whole_truth import Truth, days, row, truth_source


def loaded(truth: Truth) -> None:
    """Load two files: five days of btc, and three days of eth."""
    truth.write("btc.csv", *days("btc", range(1, 6)))
    truth.write("eth.csv", *days("eth", range(1, 4)))
    assert truth.load()["status"] == "succeeded"


def test_a_full_refresh_deletes_the_quotes_that_are_in_no_file(truth: Truth) -> None:
    loaded(truth)
    truth.write("btc.csv", row("btc", 1), row("btc", 2, 9), row("btc", 4), row("btc", 7))
    assert truth.load()["retraction"] is None
    assert set(truth.quotes) == {"btc01", "btc02", "btc03", "btc04", "btc05", "btc07", "eth01", "eth02", "eth03"}
    run = truth.refresh()
    assert (run["status"], run["error_detail"]) == ("succeeded", None)
    assert truth.quotes == {"btc01": "1", "btc02": "9", "btc04": "1", "btc07": "1"} | dict.fromkeys(
        ("eth01", "eth02", "eth03"), "1"
    )
    assert [run["retraction"][name] for name in ("compared", "missing", "deleted")] == [9, 2, 2]
    truth.assert_consistent()
