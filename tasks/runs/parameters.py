"""Parameters of replays and backfills: to and from the JSON in a run's row."""

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
"""What a backfill does with spans that an earlier backfill requested. `skip`: fetch none of them. `retry`: fetch those
that the upstream refused. `repeat`: fetch all of them."""

EXISTING: tuple[str, ...] = get_args(Existing)

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class BackfillParameters:
    """Which assets (slugs) to backfill, from `observed_from` until before `observed_to` (aware; None: now)."""

    assets: tuple[str, ...]
    observed_from: datetime
    observed_to: datetime | None = None
    existing: Existing = "skip"

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON for the run's row."""
        times = {name: at.isoformat() for name in TIME_FIELDS if (at := getattr(self, name)) is not None}
        return {"assets": list(self.assets), **times, "existing": self.existing}

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """Read the JSON that `parameters` wrote."""
        times = {name: datetime.fromisoformat(parameters[name]) for name in TIME_FIELDS if name in parameters}
        return cls(tuple(parameters["assets"]), **times, existing=parameters["existing"])

    def spans(self, max_span: timedelta, now: datetime) -> list[Span]:
        """Return the spans to fetch, newest first, each at most `max_span` long.

        Every backfill cuts at the same instants, so a backfill recognizes the spans of an earlier one. The last span
        ends with the current day, so all slices of a run have the same spans.
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
    """Which stored pages of a source to replay. The default: all of them.

    rejected:                 pages with a quarantined reject; with `code` or `field`, one that has such a reason.
    run:                      pages that this run fetched.
    fetched_from, fetched_to: pages fetched in this period; the end is excluded.
    body:                     pages with this body (SHA-256, hexadecimal).
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
        """The JSON for the run's row, without the fields that have their default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: value for name, value in values.items() if value not in (None, False)}
        return json.loads(json.dumps(chosen, default=_as_json))  # type: ignore[no-any-return]  # an object

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """Read the JSON that `parameters` wrote. Times and the run's id stay text: Postgres converts them."""
        return cls(**parameters)


def _as_json(value: UUID | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
