"""Register faults under their names in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.chaos.stage import Stage


class NotRun(Exception):
    """This machine cannot produce the fault. The message gives the reason."""


@dataclass(frozen=True)
class Fault:
    """A registered fault. act: injects it and returns the result. short: also part of `make test`."""

    name: str
    act: Callable[[Stage], str]
    short: bool = False


FAULTS: list[Fault] = []


def fault(name: str, *, short: bool = False) -> Callable[[Callable[[Stage], str]], Callable[[Stage], str]]:
    """Register a fault under its name in the table. short: also part of `make test`."""

    def register(act: Callable[[Stage], str]) -> Callable[[Stage], str]:
        FAULTS.append(Fault(name, act, short))
        return act

    return register
