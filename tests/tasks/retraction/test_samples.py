"""Test that the first missing quotes are described, whatever is left of their pages."""

from __future__ import annotations

from tasks.retraction.samples import describe_samples
from tasks.retraction.state import Retraction
from tests.tasks.retraction.whole_truth import Truth, days, row


def test_a_sample_whose_body_was_deleted_has_no_origin(truth: Truth) -> None:
    truth.write("a.csv", *days("btc", range(1, 4)))
    truth.load()
    truth.bench.rows("UPDATE raw_bodies SET body = NULL")
    truth.write("a.csv", *days("btc", range(1, 3)))
    [sample] = truth.refresh(dry_run=True)["retraction"]["samples"]
    assert (sample["observed_at"], sample["price"]) == ("2026-01-03T00:00:00+00:00", "1")
    assert [sample[name] for name in ("run", "partition", "page", "file", "line")] == [None] * 5


def test_a_file_that_is_no_longer_declared_has_no_origin(truth: Truth) -> None:
    truth.write("a.csv", row("btc", 1))
    truth.write("b.csv", row("eth", 1), row("eth", 2))
    truth.load()
    listing = truth.bench.one("SELECT id FROM listings WHERE source_asset_id = 'btc'")
    truth.bench.rows("""UPDATE pages SET request = request || '{"file": "a.txt"}' WHERE partition = 'a.csv'""")
    missing = ((listing, "2026-01-01T00:00:00+00:00"), (listing, "2026-01-02T00:00:00+00:00"))
    retraction = Retraction("token", first=missing)
    [sample] = describe_samples(truth.bench.engine, truth.bench.settings, truth.source, retraction)
    assert (sample["source_asset_id"], sample["file"]) == ("btc", None)
