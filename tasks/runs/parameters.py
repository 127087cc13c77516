"""What a run of kind replay or backfill takes: its parameters, to and from the JSON of its row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal, Self, get_args
from uuid import UUID

from sources.contract import EPOCH

SHA256 = re.compile(r"[0-9a-f]{64}")
"""How a body is named."""

TIMES = ("observed_from", "observed_to")

Existing = Literal["skip", "retry", "repeat"]
"""What becomes of spans that an earlier backfill has been through: none is fetched again; those are that were refused;
all are."""

EXISTING: tuple[str, ...] = get_args(Existing)

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class BackfillParameters:
    """The past of which assets, by their slugs: what was observed from a time on, before another (aware) or now."""

    assets: tuple[str, ...]
    observed_from: datetime
    observed_to: datetime | None = None
    existing: Existing = "skip"

    @property
    def parameters(self) -> dict[str, Any]:
        """As JSON has them."""
        times = {name: at.isoformat() for name in TIMES if (at := getattr(self, name)) is not None}
        return {"assets": list(self.assets), **times, "existing": self.existing}

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """What `parameters` gave."""
        times = {name: datetime.fromisoformat(parameters[name]) for name in TIMES if name in parameters}
        return cls(tuple(parameters["assets"]), **times, existing=parameters["existing"])

    def spans(self, longest: timedelta, now: datetime) -> list[Span]:
        """Those of its time, the newest first, cut where every backfill cuts: so one finds what another has done.

        The last ends with today: all slices of a run mean the same.
        """
        tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        end, found, since = min(self.observed_to or tomorrow, tomorrow), [], self.observed_from
        while since < end:
            until = min(EPOCH + ((since - EPOCH) // longest + 1) * longest, end)
            found.append((since, until))
            since = until
        return found[::-1]


@dataclass(frozen=True)
class ReplayParameters:
    """Which of a source's pages. Nothing said: all of them.

    rejected:   only those with a quarantined reject; with a code or a field, one that has such a reason.
    run, fetched_from, fetched_to, body: only those of a run, fetched in a time, of one body (sha256, hex).
    """

    rejected: bool = False
    code: str | None = None
    field: str | None = None
    run: UUID | None = None
    fetched_from: datetime | None = None
    fetched_to: datetime | None = None
    body: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """As JSON has them, without what is not said."""
        said = {it.name: value for it in fields(self) if (value := getattr(self, it.name)) not in (None, False)}
        return json.loads(json.dumps(said, default=_as_json))  # type: ignore[no-any-return]  # its keys are texts

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """What `parameters` gave. Times stay texts: Postgres reads them."""
        return cls(**parameters)


def _as_json(value: UUID | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
