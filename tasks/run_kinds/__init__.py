"""Adapt sources to the kinds of runs: live, replay, backfill."""
