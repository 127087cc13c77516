"""Define the states of runs, and the codes of waiting and failed runs. docs/reference/run-states.md shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Code(NamedTuple):
    """The meaning of a code, and the next step for the operator."""

    meaning: str
    next_step: str


STATES: Mapping[str, str] = {
    "queued": "The run is requested, or a slice of it ended. It starts when a worker is free.",
    "running": "A worker processes a slice of the run.",
    "waiting": "The run cannot continue now. `waiting_reason` and `next_attempt_at` have the details.",
    "succeeded": "Everything was loaded. Rejects, if any, only lack a price.",
    "partial": "The run ended. Some items were rejected for other reasons than a missing price.",
    "failed": "The run ended because of `error`. Committed pages stay.",
    "cancelled": "A person cancelled the run. Committed pages stay.",
}

WAITING: Mapping[str, Code] = {
    "body_deleted": Code("Retention deleted a stored body while the upstream confirmed it.", "None."),
    "breaker_open": Code("Several consecutive requests to the upstream failed.", "None: a trial request follows."),
    "budget_spent": Code("`CALLS_PER_MONTH` is used up.", "Wait for the next month, or raise the limit and resume."),
    "cursor_stuck": Code("The source repeats a request, or its cursor does not advance.", "Correct its `fetch`."),
    "database_unavailable": Code("Postgres is slow or unreachable, or reports a transient error.", "Check Postgres."),
    "disk_full": Code("Postgres has no disk space left. The source is paused.", "Free disk space, then resume it."),
    "file_changed": Code("A file changed while a worker read it.", "None."),
    "limiter_unreachable": Code("Redis does not respond, so calls cannot be counted.", "Check Redis."),
    "rate_limited": Code("The upstream returned 429, or `CALLS_PER_MINUTE` is used up.", "None, or a larger plan."),
    "repeated_page": Code("The upstream returned the items of an earlier page again.", "Correct its `fetch`."),
    "schema_behind": Code("The database has the schema of an older version.", "Run `alembic upgrade head`."),
    "unexpected_body": Code("The upstream returned 200 with an unexpected body.", "Request the URL by hand."),
    "unexpected_status": Code("The upstream returned 304 to an unconditional request.", "None."),
    "upstream_slow": Code("The upstream did not respond within `REQUEST_DEADLINE`.", "None."),
    "upstream_unavailable": Code("The upstream cannot be reached, or returned 408, 425 or 5xx.", "None."),
}
"""Codes of waiting runs. After `MAX_WAITS` consecutive failures, the run fails with the same code."""

FAILED: Mapping[str, Code] = {
    "bodies_missing": Code("Retention deleted all bodies that the replay would read.", "Request a full refresh."),
    "body_too_large": Code(
        "A response exceeds `MAX_BODY_BYTES` or `MAX_BODY_VALUES`.", "Raise it and the worker's memory."
    ),
    "columns_ambiguous": Code("A CSV file has a declared column twice.", "Correct the file or its declaration."),
    "columns_missing": Code("A CSV file lacks a declared column.", "Correct the file or its declaration."),
    "csv_dir_unreadable": Code("`CSV_DIR` cannot be read.", "Correct the setting, or the permissions."),
    "cursor_in_future": Code("An item dated in the future moved the cursor.", "Respect `window.latest` in `fetch`."),
    "encoding_unknown": Code("The encoding of a CSV file is not clear.", "Declare `encoding`."),
    "file_undeclared": Code("No declaration matches the file any longer.", "Declare it, or remove the file."),
    "file_unreadable": Code("A file cannot be opened, or its name is not UTF-8.", "Correct its permissions or name."),
    "header_missing": Code("A CSV file has no header.", "Declare `header` or `skip_lines`."),
    "header_unreadable": Code("The header of a CSV file is not in the declared encoding.", "Declare `encoding`."),
    "internal_error": Code("A bug in Kasparro or a source.", "Report the traceback in the log event `slice_crashed`."),
    "key_refused": Code("The upstream returned 401 or 403. The source is paused.", "Correct its key, then resume it."),
    "misconfigured": Code("The source's plan needs a key.", "Set `<SOURCE>_API_KEY` for the workers."),
    "no_history": Code("The source declares no history.", "None: it cannot be backfilled."),
    "nothing_loaded": Code("All items were rejected.", "Look at `/runs/<id>/rejects`."),
    "page_too_large": Code("A response has more than `MAX_PAGE_ITEMS` items.", "Request fewer, or raise it."),
    "payment_required": Code("The upstream returned 402. The source is paused.", "Change the plan, then resume it."),
    "poisoned": Code("`MAX_ATTEMPTS` consecutive starts ended without a page.", "Check workers for kills and memory."),
    "record_unended": Code(
        "The last line of a CSV file exceeds `CSV_RECORD_BYTES`, and has no line end.", "Correct the file."
    ),
    "records_rejected": Code(
        "The first `CSV_FIRST_RECORDS` records of a CSV file were all rejected.", "Correct it or its declaration."
    ),
    "redirected": Code("The upstream redirects to another host, or in a loop.", "If you trust it, set `<SOURCE>_URL`."),
    "schema_frozen": Code("A field with the drift policy `freeze` changed.", "Accept it, or adapt the mapping."),
    "unknown_source": Code("The source was removed from the code.", "None."),
    "upstream_refused": Code("The upstream returned 400, 404 or another 4xx.", "Check `<SOURCE>_URL` and its API."),
}
"""Codes of failed runs, in addition to the codes of waiting runs."""
