"""Hold the outcome of a fault: a row of the table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """The outcome of a fault.

    recovery:    seconds until every run had finished, or None if nothing had to recover.
    fault_count: the number of faults that this row stands for.
    failures:    broken invariants and errors, in words.
    not_run:     the reason why the fault was not run, or None.
    """

    name: str = ""
    result: str = ""
    recovery: float | None = None
    lost: int = 0
    duplicated: int = 0
    stuck: int = 0
    fault_count: int = 1
    failures: list[str] = field(default_factory=list)
    not_run: str | None = None
