"""Define and validate the body of `POST /runs`: sources, kind of run, and the parameters of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate, validates_schema

from app.runs.reject_schemas import DigestField
from app.web.arguments import MAX_NAMES, Arguments, OneOf, Text, source_name
from app.web.formats import Instant
from sources.record import EARLIEST
from sources.registry import SOURCES
from store.tables import RUN_KINDS
from tasks.runs.parameters import EXISTING

KIND_PARAMETERS = {
    "live": ("full_refresh", "after", "dry_run", "max_retracted"),
    "replay": ("run", "fetched_from", "fetched_to", "body"),
    "backfill": ("assets", "observed_from", "observed_to", "existing", "dry_run"),
}
"""The parameters that each kind of run accepts."""


MAX_COUNT = 2**53
"""The largest number of quotes in a request. Every JSON parser reads it exactly."""


class RunBody(Arguments):
    """The runs to request: exactly one of `source`, `sources` and `all`, and the parameters of the kind."""

    source = source_name(metadata={"description": "One source.", "examples": ["coingecko"]})
    sources = fields.List(
        source_name(), metadata={"description": "Several sources.", "minItems": 1, "maxItems": MAX_NAMES}
    )
    all_ = fields.Boolean(
        data_key="all", truthy={True}, falsy=set(), metadata={"description": "Every source.", "enum": [True]}
    )
    kind = OneOf(
        RUN_KINDS,
        load_default="live",
        metadata={
            "description": "`live`: fetch current data. `replay`: read stored pages again with the current mapping, "
            "without requests to the upstream. Without parameters, it reads all pages. "
            "`backfill`: fetch past prices of some assets, one price a day."
        },
    )
    run = fields.UUID(
        metadata={"description": "For a replay: only pages of this run."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )
    fetched_from = Instant(metadata={"description": "For a replay: only pages fetched at this time or later."})
    fetched_to = Instant(metadata={"description": "For a replay: only pages fetched before this time."})
    body = DigestField("For a replay: only pages with this body, by its SHA-256.")
    assets = fields.List(
        Text(),
        validate=validate.Length(1, MAX_NAMES),
        metadata={"description": "For a backfill: the slugs of the assets.", "examples": [["bitcoin"]]},
    )
    observed_from = Instant(metadata={"description": "For a backfill: start of the period."})
    observed_to = Instant(metadata={"description": "For a backfill: end of the period. Default: now."})
    existing = OneOf(
        EXISTING,
        metadata={
            "description": "For a backfill: which time spans of earlier backfills to fetch again. `skip` (default): "
            "none. `retry`: those that failed. `repeat`: all. Only `repeat` corrects existing quotes."
        },
    )
    dry_run = fields.Boolean(
        truthy={True},
        falsy={False},
        metadata={
            "description": "For a backfill: return the plan, and request no runs. With `full_refresh`: the run loads "
            "the files like any run, and counts the quotes that it would retract, but retracts none; see `retraction` "
            "of the run. For a replay, use `python -m tasks replay SOURCE --diff`."
        },
    )
    full_refresh = fields.Boolean(
        truthy={True},
        falsy={False},
        load_default=False,
        metadata={
            "description": "For a live run: start without a cursor, as if the source had never been read. "
            "If the source declares `replaces`, the run then retracts each stored quote that is in none of its files. "
            "Otherwise, it deletes nothing."
        },
    )
    max_retracted = fields.Integer(
        strict=True,
        validate=validate.Range(0, MAX_COUNT),
        metadata={
            "description": "With `full_refresh`: the maximum number of quotes to retract. If more are missing, the run "
            "fails and retracts none. Default: half of the quotes stored before the run."
        },
    )

    after = OneOf(
        ("current",),
        metadata={
            "description": "For a live run: if the source's current run has already started, `current` queues another "
            "run. The current run may have read the source before it changed. The new run starts when the current "
            "run ends. A source has at most one such queued run; a repeated request returns that run."
        },
    )

    schema_extension: ClassVar = {"oneOf": [{"required": [name]} for name in ("source", "sources", "all")]}

    @validates_schema(pass_original=True)
    def _fits_its_kind(self, body: dict[str, Any], original: Mapping[str, Any], **_: Any) -> None:
        kind = body.get("kind", "live")
        names = dict.fromkeys(name for names in KIND_PARAMETERS.values() for name in names)
        others = [name for name in names if name not in KIND_PARAMETERS.get(kind, names)]
        misplaced = [key for name in others if (key := self.fields[name].data_key or name) in original]
        if misplaced:
            raise ValidationError({key: [f"expected none with kind {kind}"] for key in misplaced})
        if kind == "live" and not body.get("full_refresh"):
            _refuse_without_refresh(original)
        if kind == "backfill":
            _check_period(body, original)

    @validates_schema
    def _names_sources_once(self, body: dict[str, Any], **_: Any) -> None:
        if len([name for name in ("source", "sources", "all_") if name in body]) != 1:
            raise ValidationError('expected exactly one of "source", "sources" and "all"')
        if not 1 <= len(body.get("sources", SOURCES)) <= MAX_NAMES:
            raise ValidationError(f"expected 1 to {MAX_NAMES} names", "sources")


def _refuse_without_refresh(original: Mapping[str, Any]) -> None:
    """Raise ValidationError for a parameter that only a full refresh has."""
    if names := [name for name in ("dry_run", "max_retracted") if name in original]:
        raise ValidationError({name: ["expected none without full_refresh"] for name in names})


def _check_period(body: Mapping[str, Any], original: Mapping[str, Any]) -> None:
    """Raise ValidationError if a backfill lacks its assets or start, or if its period is empty or starts too early."""
    for name in ("assets", "observed_from"):
        if name not in original:
            raise ValidationError("required for a backfill", name)
    if "observed_from" not in body:
        return
    now = datetime.now(UTC)
    if body["observed_from"] >= min(body.get("observed_to", now), now):
        raise ValidationError("expected a time in the past and before observed_to", "observed_from")
    if body["observed_from"] < EARLIEST:
        raise ValidationError(f"expected {EARLIEST:%Y-%m-%d} or later", "observed_from")
