"""Find the last records of CSV files that are not loaded yet because they may be incomplete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from marshmallow import Schema, fields
from sqlalchemy import Connection, text

from sources.csv.file_names import read_path
from sources.csv.ranges import split_partition
from sources.csv.scan import WAITING

MAX_RECORDS = 20


class WaitingRecordSchema(Schema):
    """The last record of a file, if it has no line end or its quote is not closed."""

    file = fields.String(metadata={"examples": ["closes/2026.csv"]})
    line = fields.Integer(metadata={"description": "The record's first line, from 1."})


WAITING_RECORDS = fields.List(
    fields.Nested(WaitingRecordSchema),
    metadata={
        "description": "The last records of files that are not loaded yet because they may be incomplete; "
        f"at most {MAX_RECORDS} records."
    },
)


def waiting_records(connection: Connection, runs: Sequence[UUID]) -> dict[str, list[dict[str, Any]]]:
    """Return the members of WaitingRecordSchema by source.

    Include a file only if one of these runs was the last run that read it completely. If these are the last runs of
    their sources, files that no longer exist are not included.
    """
    rows = connection.execute(
        text("""
            SELECT source, partition, CAST(cursor->>'line' AS int) AS line
              FROM (SELECT *, row_number() OVER (PARTITION BY source ORDER BY partition) AS number
                      FROM checkpoints
                     WHERE done_by = ANY(CAST(:runs AS uuid[])) AND cursor->>'tail' = :waiting) AS numbered
             WHERE number <= :max_records ORDER BY source, partition
        """),
        {"waiting": WAITING, "runs": list(runs), "max_records": MAX_RECORDS},
    )
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        file, _ = split_partition(row.partition)
        records[row.source].append({"file": read_path(file), "line": row.line})
    return records
