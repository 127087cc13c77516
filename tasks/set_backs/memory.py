"""Remember the last sweep outside of the database: in this process and in Redis. Both may lose it at any time."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NamedTuple

from tasks.runtime.broker import read_value, write_value
from tasks.set_backs.position import Position


class Sweep(NamedTuple):
    """A committed sweep. token: the token of its history. number: its number within that history."""

    token: str
    number: int


in_process: dict[str, Sweep] = {}


def recall_sweeps(position: Position) -> list[Sweep]:
    """Return the remembered sweeps of this database."""
    key = _key(position)
    sweeps = [in_process[key]] if key in in_process else []
    if stored := read_value(key):
        with suppress(ValueError, TypeError):  # another program wrote it
            sweeps.append(Sweep(*json.loads(stored)))
    return sweeps


def remember_sweep(position: Position, sweep: Sweep) -> None:
    """Remember a sweep that was committed."""
    in_process[_key(position)] = sweep
    write_value(_key(position), json.dumps(sweep))


def _key(position: Position) -> str:
    # A standby has the system identifier and the object ids of its primary.
    return f"kasparro:sweep:{position.system_identifier}:{position.database}"
