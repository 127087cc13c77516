"""Define fault points, where the fault-injection suite can kill or stop this process.

Fault points do nothing unless KASPARRO_FAULTS names a folder. A file in that folder arms the fault point of the same
name. The file contains the name of a signal (`SIGKILL`, `SIGSTOP`). The first process that reaches the fault point
removes the file and sends itself the signal.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Literal

Point = Literal[
    "before_lease",
    "after_fetch",
    "after_raw_page",
    "after_copy",
    "after_merge",
    "before_commit",
    "after_commit",
    "between_slices",
    "before_acknowledgement",
]
"""A fault point that every slice reaches."""

RetractionPoint = Literal[
    "before_comparison_commit", "after_comparison_commit", "before_deletion_commit", "after_deletion_commit"
]
"""A fault point that only a full refresh of a source with `replaces` reaches."""

# This is not a setting of the service, because no deployment needs it.
_FOLDER = os.environ.get("KASPARRO_FAULTS")


def reach(point: Point | RetractionPoint) -> None:
    """Send the fault point's signal to this process, if the fault point is armed."""
    if _FOLDER is not None:
        _fire(Path(_FOLDER) / point)


def _fire(armed: Path) -> None:
    try:
        name = armed.read_text().strip()
        armed.unlink()
    except FileNotFoundError:  # not armed, or another process removed it first
        return
    os.kill(os.getpid(), signal.Signals[name])
