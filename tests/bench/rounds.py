"""Order the contenders of a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def rotated(contenders: Sequence[T], number: int) -> Sequence[T]:
    """Return the contenders, starting with a different one in each round so that position does not matter."""
    first = number % len(contenders)
    return [*contenders[first:], *contenders[:first]]
