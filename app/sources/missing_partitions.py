"""Serve DELETE /sources/<name>/missing-partitions: forget the partitions that are meant to be gone."""

from __future__ import annotations

from typing import Any

from app.sources.sources import SourceResponse, describe_source, require_source
from app.web.arguments import Resource
from app.web.context import context
from tasks.runs.partitions import forget_missing

blueprint = Resource(
    "missing partitions",
    __name__,
    url_prefix="/sources",
    description="Partitions that were read before and are missing now.",
)


@blueprint.route("/<name>/missing-partitions", methods=["DELETE"])
@blueprint.without_query
@blueprint.response(200, SourceResponse)
@blueprint.alt_response(404, "NOT_FOUND")
@blueprint.doc(operationId="forgetMissingPartitions")
def forget_missing_partitions(name: str) -> dict[str, Any]:
    """Forget the missing partitions of a source

    Their checkpoints are deleted, so that they no longer degrade the source. Their quotes stay. If such a partition
    appears again, it is read from the beginning.
    """
    require_source(name)
    with context().engine.begin() as connection:
        forget_missing(connection, name)
    return describe_source(name)
