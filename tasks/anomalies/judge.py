"""Each finished live run is held against those before it; what is out of the ordinary is kept, logged and counted.

By median and median absolute deviation, which a few runs that went wrong do not move. Silent until there are enough.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from settings import get_settings
from store.errors import describe
from store.tables import UNJUDGED
from tasks.anomalies.figures import PriceGap, PriceJump, RunFigures, measure_run, price_gaps, price_jumps

log = structlog.get_logger()

HISTORY, ENOUGH = 30, 8
"""Runs before that one is held against: so many at most, and no fewer."""

LIMIT = 6.0
"""Deviations from the median, of such as half of the runs stay within one of, that are out of the ordinary."""

MOST_NAMED = 5

JUMP, JUMP_DEVIATIONS = math.log(5), 10.0
"""The least that a price must have moved to be a jump, up or down; and, of the deviations of all prices of the run."""

FAR = math.log(2)
"""A price that is more than twice, or less than half, of all others' is hardly of the same thing."""

MOST_APART = 50

FEWEST_ASSETS = 5
"""That two sources must both have a price for, before one is said to be off as a whole."""

MOST_AT_ONCE = 50


class Anomaly(NamedTuple):
    """subject: the field or the listings, where it is of some only."""

    kind: str
    detail: str
    subject: str | None = None
    value: float | None = None
    expected: float | None = None


class _Measure(NamedTuple):
    """How a figure is judged. floor, share: a deviation is never taken for smaller than that, or that of the median.

    least: what it must differ by at all. only_more: whether less of it is good.
    """

    kind: str
    unit: str
    floor: float
    share: float
    least: float
    only_more: bool


MEASURES = {
    "items": _Measure("rows", "items", 1, 0.05, 3, only_more=False),
    "rejected": _Measure("rejects", "of the items were rejected", 0.01, 0, 0.05, only_more=True),
    "repeated": _Measure("repeats", "of the items came twice", 0.01, 0, 0.05, only_more=True),
    "seconds": _Measure("duration", "seconds", 0.2, 0.2, 1, only_more=True),
    "lag": _Measure("lag", "seconds old is its newest quote", 30, 0.1, 60, only_more=True),
}
NULLS = _Measure("nulls", "of the quotes have none", 0.01, 0, 0.05, only_more=True)


def judge_runs(engine: Engine) -> None:
    """Judge what has ended and nobody has judged yet, the oldest first; each in a transaction of its own."""
    with engine.connect() as connection:
        waiting = connection.scalars(
            text(f"""
                SELECT id FROM runs
                 WHERE {UNJUDGED}
                 ORDER BY finished_at LIMIT :most
            """),
            {"most": MOST_AT_ONCE},
        ).all()
    for run in waiting:
        try:
            with engine.begin() as connection:
                found = _judge(connection, run)
        except SQLAlchemyError as error:
            # The others are to be judged all the same; this one again, the next time.
            log.warning("anomaly_check_failed", run=str(run), reason=describe(error))
            continue
        for source, anomaly in found:
            log.warning("anomaly_detected", run=str(run), source=source, kind=anomaly.kind, reason=anomaly.detail)


def _judge(connection: Connection, run: UUID) -> list[tuple[str, Anomaly]]:
    row = connection.execute(
        text("""
            SELECT source, status, finished_at, extract(epoch FROM finished_at - started_at)::float8 AS seconds
              FROM runs WHERE id = :run AND judged_at IS NULL FOR UPDATE SKIP LOCKED
        """),
        {"run": run},
    ).one_or_none()
    if row is None:  # another is at it
        return []
    figures: RunFigures = {}
    anomalies = list(_drifted(connection, run))
    if row.status != "failed":
        figures = measure_run(connection, run, row.seconds or 0.0)
        history = _history(connection, row.source, row.finished_at)
        jumps = price_jumps(connection, row.source, run)
        off = price_gaps(connection, row.source)
        if off:
            figures["off"] = median(it.share for it in off)
        if jumps:
            figures["moved"] = median(math.log(jump.ratio) for jump in jumps)
        anomalies += [*compare(figures, history), *_jumped(jumps)]
        if len(off) >= FEWEST_ASSETS and len(history) >= ENOUGH:
            anomalies += _is_off(figures, history, len(off), max(it.others for it in off))
        anomalies += _apart(connection, row.source, off)
    for anomaly in anomalies:
        connection.execute(
            text("""
                INSERT INTO anomalies (source, run, kind, subject, value, expected, detail)
                VALUES (:source, :run, :kind, :subject, :value, :expected, :detail)
            """),
            {"source": row.source, "run": run, **anomaly._asdict()},
        )
    connection.execute(
        text("UPDATE runs SET judged_at = clock_timestamp(), figures = CAST(:figures AS jsonb) WHERE id = :run"),
        {"run": run, "figures": json.dumps(figures)},
    )
    return [(row.source, anomaly) for anomaly in anomalies]


def _history(connection: Connection, source: str, before: Any) -> list[RunFigures]:
    rows = connection.scalars(
        text("""
            SELECT figures FROM runs
             WHERE source = :source AND kind = 'live' AND status IN ('succeeded', 'partial') AND figures IS NOT NULL
               AND finished_at < :before
             ORDER BY finished_at DESC LIMIT :most
        """),
        {"source": source, "before": before, "most": HISTORY},
    )
    return list(rows)


def compare(figures: RunFigures, history: Sequence[RunFigures]) -> Iterator[Anomaly]:
    """What is out of the ordinary in a run's figures. Pure."""
    for name, value in figures.items():
        measure = NULLS if name.startswith("null.") else MEASURES.get(name)
        before = [those[name] for those in history if name in those]
        if measure is None or len(before) < ENOUGH:
            continue
        usual = median(before)
        deviation = 1.4826 * median(abs(each - usual) for each in before)
        deviation = max(deviation, measure.floor, measure.share * abs(usual))
        differs = value - usual if measure.only_more else abs(value - usual)
        if differs >= max(LIMIT * deviation, measure.least):
            subject = name.removeprefix("null.") if measure is NULLS else None
            about = f"{subject}: " if subject else ""
            detail = f"{about}{value:.4g} {measure.unit}, where {usual:.4g} is usual"
            yield Anomaly(measure.kind, detail, subject, value, usual)


def _jumped(jumps: Sequence[PriceJump]) -> Iterator[Anomaly]:
    """The prices that moved beyond reason: by so much, and by many times what the prices beside them did."""
    if not jumps:
        return
    moves = [math.log(jump.ratio) for jump in jumps]
    usual = median(abs(move) for move in moves)
    # Where all moved alike, as by a factor, each has.
    limit = max(JUMP, JUMP_DEVIATIONS * 1.4826 * median(abs(move - median(moves)) for move in moves))
    found = [(jump, move) for jump, move in zip(jumps, moves, strict=True) if abs(move) >= limit]
    if found:
        found.sort(key=lambda it: -abs(it[1]))
        worst = ", ".join(f"{jump.listing} {jump.ratio:.4g}" for jump, _ in found[:MOST_NAMED])
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        detail = f"{len(found)} of {len(jumps)} prices are many times what they were: {worst}{more}"
        yield Anomaly("price", detail, found[0][0].listing, found[0][0].ratio, math.exp(usual))


def _is_off(figures: RunFigures, history: Sequence[RunFigures], assets: int, others: int) -> Iterator[Anomaly]:
    """Whether it is this source that is off, as a whole.

    With two others, or more, it is the one that none is near. Of two sources it is the one whose own prices moved.
    """
    limit = get_settings().agreement_limit
    share, usual = figures["off"], median([those["off"] for those in history if "off" in those] or [0.0])
    if abs(share - usual) < limit:
        return
    moved = figures.get("moved", 0.0)
    if others > 1 or (moved * (share - usual) > 0 and abs(moved) >= abs(share - usual) / 2):
        detail = f"{share:+.2%} from what other sources have, the median over {assets} assets; {usual:+.2%} is usual"
        yield Anomaly("agreement", detail, None, share, usual)


def _apart(connection: Connection, source: str, off: Sequence[PriceGap]) -> Iterator[Anomaly]:
    """Assets of which nobody's price is near: most likely two things that were taken for one. Each until it is over."""
    far = {it.asset: it.share for it in off if abs(math.log(max(1 + it.share, 1e-9))) > FAR}
    near = {it.asset for it in off} - far.keys()
    connection.execute(
        text("""
            UPDATE anomalies SET over_at = clock_timestamp()
             WHERE source = :source AND kind = 'apart' AND over_at IS NULL AND subject = ANY(:near)
        """),
        {"source": source, "near": list(near)},
    )
    known = set(
        connection.scalars(
            text("SELECT subject FROM anomalies WHERE source = :source AND kind = 'apart' AND over_at IS NULL"),
            {"source": source},
        )
    )
    for asset in sorted(far.keys() - known)[:MOST_APART]:
        yield Anomaly(
            "apart",
            f"{asset}: its price is {1 + far[asset]:.4g} times the nearest of other sources",
            asset,
            far[asset],
            0,
        )


def _drifted(connection: Connection, run: UUID) -> Iterator[Anomaly]:
    rows = connection.execute(text("SELECT kind, field, became FROM drift WHERE run = :run ORDER BY id"), {"run": run})
    for row in rows:
        became = f", {row.became}" if row.became else ""
        yield Anomaly("schema", f"the field {row.field} is {row.kind}{became}", row.field)
