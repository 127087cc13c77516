"""What a fault came to: a row of the table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What became of a fault. recovery: seconds, where something had to recover. counts: the faults it stands for."""

    name: str = ""
    seen: str = ""
    recovery: float | None = None
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    counts: int = 1
    broken: list[str] = field(default_factory=list)
    not_run: str | None = None
