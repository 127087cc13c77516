"""Define the exceptions that a source may raise: for transient errors, terminal errors and rejected items."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

MAX_RETRY_AFTER: Final = 32 * 86_400.0
"""The longest delay before a retry, in seconds. It covers a whole month, after which monthly budgets start again."""

UNTIL_RESUMED: Final = timedelta(days=365_000)
"""A pause that lasts until a person resumes the source."""

LIFTED_BY_SETTINGS: Final = ("key_refused", "key_missing", "payment_required", "upstream_forbidden")
"""Codes of pauses that end as soon as the source's key, plan, URL or contact changes."""


class TransientError(Exception):
    """The data is not available now. The page is not loaded; the run waits, then resumes at its last cursor.

    detail:      the error message, for people. It names the source or the file, and contains no secret.
    code:        the kind of error, for programs; docs/reference/run-states.md lists the codes.
    retry_after: the minimum delay before the next attempt, in seconds, if the upstream or one of our limits requires
                 one. If it is set, the run waits at once. Otherwise the run first loads the source's other partitions.
    is_failure:  whether the wait counts towards MAX_WAITS, after which the run fails. False if our own rate limit,
                 budget or circuit breaker prevented the request.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str = "upstream_unavailable",
        retry_after: float | None = None,
        is_failure: bool = True,
    ):
        super().__init__(detail)
        self.detail, self.code, self.is_failure = detail, code, is_failure
        # Ignore a negative or NaN delay.
        self.retry_after = min(retry_after, MAX_RETRY_AFTER) if retry_after is not None and retry_after >= 0 else None


class TerminalError(Exception):
    """A retry will not help: a person must act. The run loads its other partitions, then fails with this error.

    detail: the error message and the next step, for people. It names the source or the file, and contains no secret.
    code:   the kind of error, for programs; docs/reference/run-states.md lists the codes.
    pause:  how long the source is paused after the run. None: no pause.
    """

    def __init__(self, detail: str, *, code: str = "upstream_refused", pause: timedelta | None = None):
        super().__init__(detail)
        self.detail, self.code, self.pause = detail, code, pause


class Reject(Exception):
    """An item cannot become a quote. It is stored in quarantine with its reasons; the page's other items are loaded.

    `normalize` raises it. `parse` may yield it, with the item, for an unreadable item.

    field:  the invalid field, of the item or of the unified record.
    code:   the kind of error, for programs; counted by `GET /rejects/reasons`.
    detail: the expected value and the actual one, for people.
    item:   the item to store, if `parse` yields the reject. `normalize` need not pass it.
    record: the fields that could be read. They may identify the stored quote that the item would have corrected.
    """

    def __init__(
        self, field: str, code: str, detail: str, *, item: Any = None, record: Mapping[str, Any] | None = None
    ):
        super().__init__(f"{field}: {detail}")
        self.reasons = [{"field": field, "code": code, "detail": detail}]
        self.item, self.record = item, record

    @classmethod
    def because(cls, reasons: list[dict[str, str]], record: Mapping[str, Any] | None = None) -> Reject:
        """Return one reject for one or more reasons, each a {"field", "code", "detail"}."""
        reject = cls(**reasons[0], record=record)
        reject.reasons = reasons
        return reject
