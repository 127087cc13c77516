"""Convert the parameters of replays and backfills to and from the JSON in a run's row."""

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
"""The digest that identifies a body: SHA-256, in lower-case hexadecimal digits."""

TIME_FIELDS = ("observed_from", "observed_to")

Existing = Literal["skip", "retry", "repeat"]
"""The treatment of spans that an earlier backfill requested. `skip`: fetch none of them. `retry`: fetch only the spans
that the upstream refused. `repeat`: fetch all of them."""

EXISTING: tuple[str, ...] = get_args(Existing)

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class BackfillParameters:
    """The assets and the period of a backfill.

    assets:                     slugs.
    observed_from, observed_to: the period (aware times). Its end is excluded. None: until now.
    """

    assets: tuple[str, ...]
    observed_from: datetime
    observed_to: datetime | None = None
    existing: Existing = "skip"

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the JSON for the run's row."""
        times = {name: at.isoformat() for name in TIME_FIELDS if (at := getattr(self, name)) is not None}
        return {"assets": list(self.assets), **times, "existing": self.existing}

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """Build an instance from the JSON of `parameters`."""
        times = {name: datetime.fromisoformat(parameters[name]) for name in TIME_FIELDS if name in parameters}
        return cls(tuple(parameters["assets"]), **times, existing=parameters["existing"])

    def spans(self, max_span: timedelta, now: datetime) -> list[Span]:
        """Return the spans to fetch, newest first, each at most `max_span` long.

        All backfills divide time at the same instants, so that a backfill recognizes the spans of an earlier backfill.
        The newest span ends with the current day at the latest, so that all slices of a run have the same spans.
        """
        tomorrow = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        end, spans, since = min(self.observed_to or tomorrow, tomorrow), [], self.observed_from
        while since < end:
            until = min(EPOCH + ((since - EPOCH) // max_span + 1) * max_span, end)
            spans.append((since, until))
            since = until
        return spans[::-1]


@dataclass(frozen=True)
class ReplayParameters:
    """The stored pages of a source to replay. Default: all pages.

    rejected:                 only pages with quarantined rejects.
    code, field:              with `rejected`, the code or field that a reason of a reject must have.
    run:                      only pages that this run fetched.
    fetched_from, fetched_to: only pages fetched in this period. Its end is excluded.
    body:                     only pages with this body (SHA-256, hexadecimal).
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
        """Return the JSON for the run's row, without the fields that have their default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        selected = {name: value for name, value in values.items() if value not in (None, False)}
        stored: dict[str, Any] = json.loads(json.dumps(selected, default=_as_json))
        return stored

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """Build an instance from the JSON of `parameters`. Times and the run's id stay text: Postgres converts them."""
        return cls(**parameters)


def _as_json(value: UUID | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
