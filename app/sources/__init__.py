"""Serve sources: schedules and state, run histories, drift of their fields."""
