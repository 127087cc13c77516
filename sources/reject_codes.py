"""List the codes of rejects and dropped values with their meanings. They fill docs/reference/reject-codes.md."""

from __future__ import annotations

from collections.abc import Mapping

from sources.record_rules import CONTRADICTION_RULES

MAX_REJECTS_PER_PAGE = 1000
"""The maximum number of a page's rejects that are stored. The others are only counted."""

MAX_REJECTS_PER_RUN = 10_000
"""After this many stored rejects of a run, only the first reject of each further page is stored."""

REJECT_CODES: Mapping[str, str] = {
    "drift": "A field of the item changed, and the source's drift policy is `quarantine`.",
    "empty": "A text is empty.",
    "encoding": "A text is not valid in the declared encoding, or has control or broken characters.",
    "high_below_low": CONTRADICTION_RULES["high_below_low"].meaning,
    "in_future": "The time is later than the fetch by more than `CLOCK_SKEW`.",
    "missing": "A required value is missing.",
    "negative": "A number that cannot be negative is negative.",
    "no_price": "The item has no price. This alone does not make a run `partial`.",
    "no_quotes": "The item has no quote in any currency.",
    "not_a_currency": "The currency is not a code such as `USD`.",
    "not_a_number": "A value is not a number in the declared notation, or it is a float.",
    "not_a_rank": "The rank is not a whole number of 1 or more.",
    "not_a_time": "The time is not in a declared format, or has no offset from UTC.",
    "not_positive": "The price is not above 0.",
    "not_text": "A value is not text.",
    "open_outside_range": CONTRADICTION_RULES["open_outside_range"].meaning,
    "out_of_range": "A number is too large, too small, or has too many digits.",
    "price_outside_range": CONTRADICTION_RULES["price_outside_range"].meaning,
    "ragged": "A row has more or fewer cells than the header.",
    "record_too_large": (
        "A record has more than `CSV_RECORD_BYTES` bytes or 1000 lines. It may contain an unclosed quote."
    ),
    "too_early": "The time is before 2009-01-03, the day of Bitcoin's first block.",
    "too_long": "A text is too long.",
    "unclosed_quote": "A quote is not closed before the end of the file.",
    "unknown_field": "The mapping returned a field that the unified record does not have.",
    "unmappable": "The mapping of the source raised an exception, or returned no fields.",
}
