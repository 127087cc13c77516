"""The service's times made short enough to be waited out, and an environment with nothing of the caller's in it."""

from __future__ import annotations

import os

# What runs into these in a test has gone wrong; together they pass the settings' own inequalities.
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

_CALLERS = ("COINPAPRIKA_", "COINGECKO_", "CSV_", "API_TOKEN", "READS_", "EXTRA_", "LOG_")


def forget_the_callers_settings() -> None:
    """Nothing of the caller's environment reaches what is tested."""
    for name in list(os.environ):
        if name.startswith(_CALLERS):
            del os.environ[name]
