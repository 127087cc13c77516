"""Test that errors provide a usable delay, and that rejects provide all their reasons."""

from __future__ import annotations

import pytest

from sources.errors import MAX_RETRY_AFTER, Reject, TransientError


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [(5.0, 5.0), (0.0, 0.0), (None, None), (-1.0, None), (float("nan"), None), (1e300, MAX_RETRY_AFTER)],
)
def test_an_unusable_delay_is_ignored(retry_after: float | None, expected: float | None) -> None:
    assert TransientError("later", retry_after=retry_after).retry_after == expected


def test_a_reject_may_have_several_reasons() -> None:
    reasons = [
        {"field": "price", "code": "no_price", "detail": "expected a price, got none"},
        {"field": "rank", "code": "not_a_rank", "detail": "expected a whole number, got 'x'"},
    ]
    reject = Reject.because(reasons)
    assert reject.reasons == reasons
    assert str(reject) == "price: expected a price, got none"
