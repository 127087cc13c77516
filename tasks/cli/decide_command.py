"""Decide which asset a listing is of: `python -m tasks decide merge|split|pin|undo`. The API takes the same."""

from __future__ import annotations

import argparse
import getpass
import sys
from uuid import UUID

from sqlalchemy import Connection

from settings import get_settings
from store.engine import make_engine
from store.errors import describe
from tasks.identity.decisions import DecisionRefused, ListingName, Verdict, decision_lock, merge, pin, split
from tasks.identity.undo import revert_change
from tasks.runtime.retry import DATABASE_ERRORS


def main(arguments: list[str]) -> int:
    given = parser().parse_args(arguments)
    settings = get_settings()
    # As a worker's: one that is frozen must not keep the others from deciding for ever.
    engine = make_engine(settings.database_url, "decide", transaction_timeout=settings.transaction_timeout)
    try:
        with decision_lock(engine) as connection:
            change, made = _decide(connection, given)
    except DecisionRefused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    except DATABASE_ERRORS as error:
        sys.stderr.write(f"It was not decided: {describe(error)}.\n")
        return 1
    finally:
        engine.dispose()
    asset = f" They are of {made} now." if made else ""
    sys.stdout.write(
        f"Done, as change {change}.{asset} Undo it with: python -m tasks decide undo {change} --reason …\n"
    )
    return 0


def _decide(connection: Connection, given: argparse.Namespace) -> tuple[UUID, str]:
    """The change's id, and the slug of the asset that it made."""
    by = f"cli:{given.by}"
    if given.what == "merge":
        return merge(connection, given.asset, given.into, Verdict("merged", by, reason=given.reason)), ""
    if given.what == "split":
        return split(connection, given.asset, given.listings, Verdict("split", by, reason=given.reason))
    if given.what == "pin":
        return pin(connection, given.asset, given.listings, Verdict("pinned", by, reason=given.reason)), ""
    return revert_change(connection, given.change, by, given.reason), ""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks decide", description=(__doc__ or "").splitlines()[0])
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument("--reason", required=True, help="why; it is kept with the decision")
    every.add_argument("--by", default=getpass.getuser(), help="who decided it (default: the user)")
    ways = parser.add_subparsers(dest="what", required=True)
    way = ways.add_parser("merge", parents=[every], help="all listings of an asset are of another")
    way.add_argument("asset", help="its slug")
    way.add_argument("into", help="slug of the asset that stays")
    for name, help_ in (
        ("split", "some listings of an asset are of one of their own"),
        ("pin", "some listings are of this asset, whatever they were of"),
    ):
        way = ways.add_parser(name, parents=[every], help=help_)
        way.add_argument("asset", help="its slug")
        way.add_argument("listings", nargs="+", type=_listing, metavar="source:id", help="such as coingecko:bitcoin")
    way = ways.add_parser("undo", parents=[every], help="each listing of a change is again what it was before")
    way.add_argument("change", type=UUID, help="the change's id")
    return parser


def _listing(text: str) -> ListingName:
    source, colon, id_ = text.partition(":")
    if not (source and colon and id_):
        raise argparse.ArgumentTypeError(f"expected source:id, such as coingecko:bitcoin, got {text!r}")
    return source, id_
