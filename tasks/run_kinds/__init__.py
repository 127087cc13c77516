"""What a run of each kind fetches: live, replay, backfill."""
