"""Named points at which the fault suite stops or kills this process. Inert unless KASPARRO_FAULTS names a folder.

A point is armed by a file of its name in that folder, which holds a signal's name (`SIGKILL`, `SIGSTOP`). The first
process to come to the point takes the file away, and sends itself the signal: each file strikes once.
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

# No setting of the service: a deployment has no use for it.
_FOLDER = os.environ.get("KASPARRO_FAULTS")


def reach(point: Point) -> None:
    """Say that the work has come to a point."""
    if _FOLDER is not None:
        _strike(Path(_FOLDER) / point)


def _strike(armed: Path) -> None:
    try:
        name = armed.read_text().strip()
        armed.unlink()
    except FileNotFoundError:  # not armed, or another process was first
        return
    os.kill(os.getpid(), signal.Signals[name])
