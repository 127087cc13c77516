"""Shorten the time limits of the service for tests, and remove the caller's settings from the environment."""

from __future__ import annotations

import os

# Only a failing test reaches these limits. Together they satisfy the inequalities of settings.py.
SHORT_TIMES = {
    "TASK_SLICE": "20",
    "TASK_SOFT_LIMIT": "33",
    "TASK_HARD_LIMIT": "35",
    "VISIBILITY_TIMEOUT": "75",
    "LEASE": "5",
    "TRANSACTION_TIMEOUT": "1.2",
    "REQUEST_DEADLINE": "1.5",
    "SWEEP_EVERY": "1",
    "RETRY_AFTER_FAILURE": "0.2",
    "BREAKER_COOLDOWN": "1",
    "PUBLISH_GAP": "2",
}

_CALLER_PREFIXES = ("COINPAPRIKA_", "COINGECKO_", "CSV_", "API_TOKEN", "READS_", "EXTRA_", "LOG_")


def remove_caller_settings() -> None:
    """Remove the settings of the caller's environment, so that they do not affect the tests."""
    for name in list(os.environ):
        if name.startswith(_CALLER_PREFIXES):
            del os.environ[name]
