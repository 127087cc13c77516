"""Compare each finished live run with the runs before it, and record anomalies.

The comparison uses the median and the median absolute deviation, which a few bad runs do not move. The figures of a run
are judged only if its source has enough earlier runs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import SQLAlchemyError

from settings import get_settings
from store.errors import describe
from store.schema import explain
from store.tables import UNJUDGED
from tasks.anomalies.figures import PriceGap, PriceJump, RunFigures, measure_run, price_gaps, price_jumps
from tasks.runtime.outdated_schema import schema_log

log = structlog.get_logger()

MAX_BASELINE_RUNS, MIN_BASELINE_RUNS = 30, 8
"""How many earlier runs to compare a run with."""

MIN_DEVIATIONS = 6.0
"""A figure is unusual from this many standard deviations on, which are estimated from the median absolute deviation."""

MAD_TO_STANDARD_DEVIATION = 1.4826
"""Standard deviation of a normal distribution whose median absolute deviation is 1."""

MAX_LISTINGS_IN_DETAIL = 5

MIN_JUMP, MIN_JUMP_DEVIATIONS = math.log(5), 10.0
"""A price jumped if its logarithm moved by the first value, and by this many deviations of all moves in the run."""

MIN_APART = math.log(2)
"""A price above twice or below half of all other prices most likely belongs to another asset."""

MAX_APART_PER_RUN = 50

MIN_SHARED_ASSETS = 5
"""The minimum number of assets with prices from other sources for a comparison of the whole source."""

MAX_RUNS_PER_CALL = 50

TIME_LIMIT = 0.5
"""Time limit of one call, in seconds. The reconciler waits in the same queue, so another call does the rest."""


class Anomaly(NamedTuple):
    """An anomaly to record. subject: the field, listing or asset that it concerns; None for the whole run."""

    kind: str
    detail: str
    subject: str | None = None
    value: float | None = None
    expected: float | None = None


class _Measure(NamedTuple):
    """The limits for a figure. description: a format string for its value.

    min_deviation, min_deviation_share: lower limits of the deviation, the latter as a share of the median.
    min_difference: the lower limit of an unusual difference. only_more: whether only higher values are unusual.
    """

    kind: str
    description: str
    min_deviation: float
    min_deviation_share: float
    min_difference: float
    only_more: bool


MEASURES = {
    "items": _Measure("rows", "{:.4g} items", 1, 0.05, 3, only_more=False),
    "rejected": _Measure("rejects", "{:.4g} of the items were rejected", 0.01, 0, 0.05, only_more=True),
    "repeated": _Measure("repeats", "{:.4g} of the items were repeated", 0.01, 0, 0.05, only_more=True),
    "seconds": _Measure("duration", "the run took {:.4g} seconds", 0.2, 0.2, 1, only_more=True),
    "lag": _Measure("lag", "the newest quote was {:.4g} seconds old when fetched", 30, 0.1, 60, only_more=True),
}
NULLS = _Measure("nulls", "{:.4g} of the quotes have no value", 0.01, 0, 0.05, only_more=True)


def judge_runs(engine: Engine, *, seconds: float | None = None) -> bool:
    """Judge the finished live runs that are not judged yet, the oldest first, each in its own transaction.

    seconds: the time limit. Return False if it was reached before all of these runs were judged.
    """
    until = time.monotonic() + (TIME_LIMIT if seconds is None else seconds)
    with engine.connect() as connection:
        runs = connection.scalars(
            text(f"""
                SELECT id FROM runs
                 WHERE {UNJUDGED}
                 ORDER BY finished_at LIMIT :max_runs
            """),
            {"max_runs": MAX_RUNS_PER_CALL},
        ).all()
    for count, run in enumerate(runs):
        if count and time.monotonic() >= until:
            return False
        try:
            with engine.begin() as connection:
                anomalies = _judge(connection, run)
        except SQLAlchemyError as raised:
            # The next call tries this run again.
            error = explain(engine, raised)
            if not schema_log.error(error):
                log.warning("anomaly_check_failed", run=str(run), reason=describe(error))
            continue
        for source, anomaly in anomalies:
            log.warning("anomaly_detected", run=str(run), source=source, kind=anomaly.kind, reason=anomaly.detail)
    return True


def _judge(connection: Connection, id_: UUID) -> list[tuple[str, Anomaly]]:
    """Judge a run, and store its figures and anomalies. Return each anomaly with its source."""
    run = connection.execute(
        text("""
            SELECT id, source, status, finished_at, extract(epoch FROM finished_at - started_at)::float8 AS seconds
              FROM runs WHERE id = :run AND judged_at IS NULL FOR UPDATE SKIP LOCKED
        """),
        {"run": id_},
    ).one_or_none()
    if run is None:  # Another process judges it.
        return []
    figures: RunFigures = {}
    anomalies = list(_field_changes(connection, id_))
    if run.status != "failed":
        figures, unusual = _compare_with_earlier_runs(connection, run)
        anomalies += unusual
    _save(connection, run, figures, anomalies)
    return [(run.source, anomaly) for anomaly in anomalies]


def _compare_with_earlier_runs(connection: Connection, run: Row[Any]) -> tuple[RunFigures, list[Anomaly]]:
    figures = measure_run(connection, run.id, run.seconds or 0.0)
    baseline = _baseline(connection, run.source, run.finished_at)
    jumps = price_jumps(connection, run.source, run.id)
    gaps = price_gaps(connection, run.source)
    if gaps:
        figures["off"] = median(gap.share for gap in gaps)
    if jumps:
        figures["moved"] = median(math.log(jump.ratio) for jump in jumps)
    anomalies = [*compare(figures, baseline), *unusual_jumps(jumps)]
    if len(gaps) >= MIN_SHARED_ASSETS and len(baseline) >= MIN_BASELINE_RUNS:
        anomalies += _disagreement(figures, baseline, len(gaps), max(gap.others for gap in gaps))
    anomalies += _assets_apart(connection, run.source, gaps)
    return figures, anomalies


def _save(connection: Connection, run: Row[Any], figures: RunFigures, anomalies: Sequence[Anomaly]) -> None:
    for anomaly in anomalies:
        connection.execute(
            text("""
                INSERT INTO anomalies (source, run, kind, subject, value, expected, detail)
                VALUES (:source, :run, :kind, :subject, :value, :expected, :detail)
            """),
            {"source": run.source, "run": run.id, **anomaly._asdict()},
        )
    connection.execute(
        text("UPDATE runs SET judged_at = service_time(), figures = CAST(:figures AS jsonb) WHERE id = :run"),
        {"run": run.id, "figures": json.dumps(figures)},
    )


def _baseline(connection: Connection, source: str, before: datetime) -> list[RunFigures]:
    """Return the figures of the source's last good runs before a time."""
    rows = connection.scalars(
        text("""
            SELECT figures FROM runs
             WHERE source = :source AND kind = 'live' AND status IN ('succeeded', 'partial') AND figures IS NOT NULL
               AND finished_at < :before
             ORDER BY finished_at DESC LIMIT :max_runs
        """),
        {"source": source, "before": before, "max_runs": MAX_BASELINE_RUNS},
    )
    return list(rows)


def compare(figures: RunFigures, baseline: Sequence[RunFigures]) -> Iterator[Anomaly]:
    """Yield an anomaly for each unusual figure of a run. baseline: the figures of the runs before it. Pure."""
    for name, value in figures.items():
        measure = NULLS if name.startswith("null.") else MEASURES.get(name)
        earlier = [run[name] for run in baseline if name in run]
        if measure is None or len(earlier) < MIN_BASELINE_RUNS:
            continue
        usual = median(earlier)
        deviation = MAD_TO_STANDARD_DEVIATION * median(abs(figure - usual) for figure in earlier)
        deviation = max(deviation, measure.min_deviation, measure.min_deviation_share * abs(usual))
        difference = value - usual if measure.only_more else abs(value - usual)
        if difference >= max(MIN_DEVIATIONS * deviation, measure.min_difference):
            subject = name.removeprefix("null.") if measure is NULLS else None
            prefix = f"{subject}: " if subject else ""
            detail = f"{prefix}{measure.description.format(value)}, where {usual:.4g} is usual"
            yield Anomaly(measure.kind, detail, subject, value, usual)


def unusual_jumps(jumps: Sequence[PriceJump]) -> Iterator[Anomaly]:
    """Yield one anomaly if some prices moved far, and much farther than the run's other prices. Pure."""
    if not jumps:
        return
    moves = [math.log(jump.ratio) for jump in jumps]
    usual = median(abs(move) for move in moves)
    # If all prices moved by the same factor, the deviation is 0, and each of them is a jump.
    deviation = MAD_TO_STANDARD_DEVIATION * median(abs(move - median(moves)) for move in moves)
    limit = max(MIN_JUMP, MIN_JUMP_DEVIATIONS * deviation)
    large_jumps = [(jump, move) for jump, move in zip(jumps, moves, strict=True) if abs(move) >= limit]
    if large_jumps:
        large_jumps.sort(key=lambda entry: -abs(entry[1]))
        worst = ", ".join(f"{jump.listing} {jump.ratio:.4g}" for jump, _ in large_jumps[:MAX_LISTINGS_IN_DETAIL])
        omitted = len(large_jumps) - MAX_LISTINGS_IN_DETAIL
        suffix = f" and {omitted} more" if omitted > 0 else ""
        summary = f"{len(large_jumps)} of {len(jumps)} prices are far from their earlier median"
        detail = f"{summary} (as ratios to it): {worst}{suffix}"
        yield Anomaly("price", detail, large_jumps[0][0].listing, large_jumps[0][0].ratio, math.exp(usual))


def _disagreement(figures: RunFigures, baseline: Sequence[RunFigures], assets: int, others: int) -> Iterator[Anomaly]:
    """Yield an anomaly if the source as a whole differs from other sources.

    With two or more other sources, the outlier is the source that is near none of them. With only one other source, the
    outlier is the source whose own prices moved.
    """
    limit = get_settings().agreement_limit
    share, usual = figures["off"], median([run["off"] for run in baseline if "off" in run] or [0.0])
    if abs(share - usual) < limit:
        return
    moved = figures.get("moved", 0.0)
    if others > 1 or (moved * (share - usual) > 0 and abs(moved) >= abs(share - usual) / 2):
        detail = f"{share:+.2%} from the prices of other sources, median over {assets} assets; {usual:+.2%} is usual"
        yield Anomaly("agreement", detail, None, share, usual)


def _assets_apart(connection: Connection, source: str, gaps: Sequence[PriceGap]) -> Iterator[Anomaly]:
    """Yield an anomaly for each asset whose price is far from all other sources: most likely, two assets were merged.

    An asset that already has such an anomaly gets no second anomaly. End the anomalies of assets whose prices agree
    again.
    """
    far = {gap.asset: gap.share for gap in gaps if abs(math.log(max(1 + gap.share, 1e-9))) > MIN_APART}
    near = {gap.asset for gap in gaps} - far.keys()
    connection.execute(
        text("""
            UPDATE anomalies SET over_at = service_time()
             WHERE source = :source AND kind = 'apart' AND over_at IS NULL AND subject = ANY(:near)
        """),
        {"source": source, "near": list(near)},
    )
    recorded = set(
        connection.scalars(
            text("SELECT subject FROM anomalies WHERE source = :source AND kind = 'apart' AND over_at IS NULL"),
            {"source": source},
        )
    )
    for asset in sorted(far.keys() - recorded)[:MAX_APART_PER_RUN]:
        detail = f"{asset}: its price is {1 + far[asset]:.4g} times the nearest price of another source"
        yield Anomaly("apart", detail, asset, far[asset], 0)


def _field_changes(connection: Connection, run: UUID) -> Iterator[Anomaly]:
    rows = connection.execute(text("SELECT kind, field, became FROM drift WHERE run = :run ORDER BY id"), {"run": run})
    for row in rows:
        yield Anomaly("schema", _describe_change(row), row.field)


def _describe_change(row: Row[Any]) -> str:
    if row.kind == "renamed":
        return f"the field {row.field} was renamed to {row.became}"
    if row.kind == "retyped":
        return f"the field {row.field} changed its type to {row.became}"
    if row.kind == "vanished":
        return f"the field {row.field} vanished"
    return f"the field {row.field} is new" + (f", of type {row.became}" if row.became else "")
