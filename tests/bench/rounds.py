"""The order of a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def rotated(contenders: Sequence[T], number: int) -> Sequence[T]:
    """In each round another one is the first, so that none always has the machine as the same other one left it."""
    begin = number % len(contenders)
    return [*contenders[begin:], *contenders[:begin]]
