"""Stop reading a file whose first records are all rejected: its declaration is wrong, or it is another kind of file."""

from __future__ import annotations

from sources.contract import Page, TerminalError
from tasks.pipeline.normalize import NormalizedPage, RejectedItem

CODES_OF_VALUES = frozenset(("drift", "in_future", "no_price", "too_early"))
"""The codes of records that were read well. A price history may begin with many records that have no price yet."""

QUOTED_RECORDS = 3
"""The number of rejected records in the error."""

MAX_QUOTED_CHARS, MAX_HEADER_CHARS = 200, 300
"""The maximum characters of a rejected record, and of the header, in the error."""


class FileRefused(TerminalError):
    """All of a file's first records were rejected. The next run reads the file again from its beginning."""


class FirstRecords:
    """Check the first records of one partition, page by page, in order.

    source: its name. limit: the number of records to check (CSV_FIRST_RECORDS).
    """

    def __init__(self, source: str, limit: int):
        self._source, self._limit = source, limit
        self._is_first_page, self._is_decided = True, False
        self._rejects: list[RejectedItem] = []
        self._count = 0

    def check(self, page: Page, normalized: NormalizedPage) -> None:
        """Raise FileRefused if this page completes the first records, and all of them were rejected."""
        self._is_decided = self._is_decided or (self._is_first_page and not _begins(page))
        self._is_first_page = False
        if self._is_decided:
            return
        rejects = _leading_rejects(normalized)
        count = normalized.fetched if _is_refused(normalized) else len(rejects)
        self._rejects += rejects[: QUOTED_RECORDS - len(self._rejects)]
        self._count += count
        if self._count >= self._limit:
            raise FileRefused(self._explain(page), code="records_rejected")
        self._is_decided = count < normalized.fetched

    def _explain(self, page: Page) -> str:
        header = ascii(page.request.get("header"))[:MAX_HEADER_CHARS]
        first = "; ".join(map(_describe, self._rejects))
        return (
            f"{self._source}: {page.request.get('file')}: its first {self._count} records were all rejected, so it "
            f"was not read further. Correct the file or its declaration, or raise CSV_FIRST_RECORDS. "
            f"Its columns: {header}. The first records: {first}"
        )


def _begins(page: Page) -> bool:
    """Return whether a page begins at the start of its file or range."""
    cursor = page.cursor or {}
    return "offset" in page.request and page.request["offset"] <= cursor.get("begin", -1)


def _is_refused(normalized: NormalizedPage) -> bool:
    """Return whether no record of a page was read well. Only the first of its rejects are known one by one."""
    return normalized.rejected == normalized.fetched and normalized.reject_codes.isdisjoint(CODES_OF_VALUES)


def _leading_rejects(normalized: NormalizedPage) -> list[RejectedItem]:
    """Return the rejects before the page's first record that was read well."""
    leading = []
    for index, reject in enumerate(normalized.rejects):
        if reject.index != index or any(reason["code"] in CODES_OF_VALUES for reason in reject.reasons):
            break
        leading.append(reject)
    return leading


def _describe(reject: RejectedItem) -> str:
    reasons = ", ".join(f"{reason['field']}: {reason['detail']}" for reason in reject.reasons[:QUOTED_RECORDS])
    return f"{reject.item[:MAX_QUOTED_CHARS]} ({reasons[:MAX_QUOTED_CHARS]})"
