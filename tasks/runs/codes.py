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
    "partial": "The run ended, but not everything is well: some items were rejected for other reasons than a missing "
    "price, or `error` says what is missing.",
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
    "encoding_unknown": Code(
        "A CSV file has no byte order mark, or one that contradicts its declared encoding.", "Declare `encoding`."
    ),
    "file_undeclared": Code("No declaration matches the file any longer.", "Declare it, or remove the file."),
    "file_unreadable": Code("A file cannot be opened, or its name is not UTF-8.", "Correct its permissions or name."),
    "header_missing": Code("A CSV file has no header.", "Declare `header` or `skip_lines`."),
    "header_unreadable": Code("The header of a CSV file is not in the declared encoding.", "Declare `encoding`."),
    "internal_error": Code("A bug in Kasparro.", "Report the traceback in the log event `slice_crashed`."),
    "key_missing": Code(
        "The upstream returned 401, and no key was sent. The source is paused.", "Set `<SOURCE>_API_KEY`."
    ),
    "key_refused": Code(
        "The upstream returned 401 or 403 to a request with a key. The source is paused.", "Correct its key."
    ),
    "misconfigured": Code(
        "The source's plan needs a key or secret, or the source declares its requests incorrectly.",
        "Follow `error.detail`.",
    ),
    "partitions_missing": Code(
        "Partitions that were read before are missing.",
        "Put them back, or forget them with `DELETE /sources/<name>/missing-partitions`.",
    ),
    "no_history": Code("The source declares no history.", "None: it cannot be backfilled."),
    "nothing_loaded": Code("All items were rejected.", "Look at `/runs/<id>/rejects`."),
    "page_too_large": Code("A response has more than `MAX_PAGE_ITEMS` items.", "Request fewer, or raise it."),
    "payment_required": Code("The upstream returned 402. The source is paused.", "Change the plan."),
    "poisoned": Code("`MAX_ATTEMPTS` consecutive starts ended without a page.", "Check workers for kills and memory."),
    "record_unended": Code(
        "The last line of a CSV file exceeds `CSV_RECORD_BYTES`, and has no line end.", "Correct the file."
    ),
    "records_rejected": Code(
        "The first `CSV_FIRST_RECORDS` records of a CSV file were all rejected.", "Correct it or its declaration."
    ),
    "redirected": Code(
        "The upstream redirects to another host, in a loop, or a POST to a GET.", "If you trust it, set `<SOURCE>_URL`."
    ),
    "refresh_incomplete": Code(
        "A full refresh could not see every record, so it retracted no quotes.", "Correct the file, and repeat it."
    ),
    "replay_refused": Code("The source declares `replaces`.", "Request a full refresh."),
    "schema_frozen": Code("A field with the drift policy `freeze` changed.", "Accept it, or adapt the mapping."),
    "source_broken": Code(
        "The source's module, declaration or settings are wrong.", "Correct what the error names, then restart."
    ),
    "source_error": Code(
        "A function of the source raised an exception, or returned a wrong value.",
        "Correct the line that the error names, then restart.",
    ),
    "too_many_missing": Code(
        "A full refresh would retract more than half of the quotes, or more than `max_retracted`.",
        "Check the files. If they are right, send `max_retracted`.",
    ),
    "unknown_source": Code("The source was removed from the code.", "None."),
    "upstream_forbidden": Code(
        "The upstream returned 403, and no key was sent. The source is paused.",
        "Follow its words in `error.detail`; it may want a key or `USER_AGENT_CONTACT`.",
    ),
    "upstream_refused": Code("The upstream returned 400, 404 or another 4xx.", "Check `<SOURCE>_URL` and its API."),
}
"""Codes of failed runs, in addition to the codes of waiting runs."""

PARTIAL: Mapping[str, Code] = {
    "mostly_rejected": Code(
        "Too few items of a page became quotes (`least_good`).", "Look at `/runs/<id>/rejects`, and ask the upstream."
    ),
    "nothing_loaded": Code(
        "The newest content of some partitions could not be loaded.", "Look at the rejects of the run in `error`."
    ),
    "partitions_missing": Code("Some partitions that were read before are missing.", "As for a failed run."),
    "too_few_items": Code("The run has fewer items than the source expects (`expects`).", "Look at the upstream."),
}
"""Codes of partial runs. A run that is partial only because some items were rejected has no code."""
