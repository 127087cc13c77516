"""Order the contenders of a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def rotated(contenders: Sequence[T], number: int) -> Sequence[T]:
    """Return the contenders with another one first in each round, so that none profits from its position."""
    first = number % len(contenders)
    return [*contenders[first:], *contenders[:first]]
