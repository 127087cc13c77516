"""What `POST /runs` takes: which sources, which kind of run, and what belongs to that kind only."""

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

OF_A_KIND = {
    "live": ("full_refresh",),
    "replay": ("run", "fetched_from", "fetched_to", "body"),
    "backfill": ("assets", "observed_from", "observed_to", "existing", "dry_run"),
}
"""What a request may carry for a run of each kind only."""


class RunBody(Arguments):
    """What to run: exactly one of `source`, `sources` and `all`."""

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
            "description": "`live`: what the source has now. `replay`: what is kept of it, read again with today's "
            "mapping; no upstream is asked. Without `run` and the like, all of it. `backfill`: the past of some "
            "assets, a price a day."
        },
    )
    run = fields.UUID(
        metadata={"description": "Of a replay: the pages of this run."},
        error_messages={"invalid_uuid": "expected a run's id, a UUID"},
    )
    fetched_from = Instant(metadata={"description": "Of a replay: the pages fetched at this time or later."})
    fetched_to = Instant(metadata={"description": "Of a replay: the pages fetched before this time."})
    body = DigestField("Of a replay: the pages with this body, by its SHA-256.")
    assets = fields.List(
        Text(),
        validate=validate.Length(1, MAX_NAMES),
        metadata={"description": "Of a backfill: of which assets, by their slugs.", "examples": [["bitcoin"]]},
    )
    observed_from = Instant(metadata={"description": "Of a backfill: the past from this time on."})
    observed_to = Instant(metadata={"description": "Of a backfill: the past before this time. Default: now."})
    existing = OneOf(
        EXISTING,
        metadata={
            "description": "Of a backfill: `skip` (default) what an earlier one has been through, `retry` what failed "
            "of it, or `repeat` all; only then are quotes corrected that are there."
        },
    )
    dry_run = fields.Boolean(
        truthy={True},
        falsy={False},
        metadata={
            "description": "Of a backfill: only say what would be fetched. What a replay would change says "
            "`python -m tasks replay SOURCE --diff`."
        },
    )
    full_refresh = fields.Boolean(
        truthy={True},
        falsy={False},
        load_default=False,
        metadata={"description": "Start from no cursor, as if nothing had been read yet. Deletes nothing."},
    )

    schema_extension: ClassVar = {"oneOf": [{"required": [name]} for name in ("source", "sources", "all")]}

    @validates_schema(pass_original=True)
    def _fits_its_kind(self, body: dict[str, Any], original: Mapping[str, Any], **_: Any) -> None:
        kind = body.get("kind", "live")
        others = [name for other, names in OF_A_KIND.items() if other != kind for name in names]
        given = [key for name in others if (key := self.fields[name].data_key or name) in original]
        if given:
            raise ValidationError({key: [f"expected none with kind {kind}"] for key in given})
        if kind != "backfill":
            return
        for name in ("assets", "observed_from"):
            if name not in original:
                raise ValidationError("a backfill needs it", name)
        now = datetime.now(UTC)
        if "observed_from" in body and body["observed_from"] >= min(body.get("observed_to", now), now):
            raise ValidationError("expected a time before observed_to, or now", "observed_from")
        if "observed_from" in body and body["observed_from"] < EARLIEST:
            raise ValidationError(f"expected {EARLIEST:%Y-%m-%d} or later", "observed_from")

    @validates_schema
    def _names_sources_once(self, body: dict[str, Any], **_: Any) -> None:
        if len([name for name in ("source", "sources", "all_") if name in body]) != 1:
            raise ValidationError('give exactly one of "source", "sources" and "all"')
        if not 1 <= len(body.get("sources", SOURCES)) <= MAX_NAMES:
            raise ValidationError(f"expected 1 to {MAX_NAMES} names", "sources")
