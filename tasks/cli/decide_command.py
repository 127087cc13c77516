"""Decide which asset a listing belongs to: `python -m tasks decide merge|split|pin|undo`. The API can do the same."""

from __future__ import annotations

import argparse
import getpass
import sys
from uuid import UUID

from sqlalchemy import Connection

from settings import get_settings
from store.engine import make_engine
from store.errors import describe
from store.schema import explain
from tasks.identity.decisions import DecisionRefused, ListingName, Verdict, decision_lock, merge, pin, split
from tasks.identity.undo import revert_change
from tasks.runtime.retry import DATABASE_ERRORS


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    settings = get_settings()
    # The timeout is the same as a worker's, so that a frozen command cannot hold the lock forever.
    engine = make_engine(settings.database_url, "decide", transaction_timeout=settings.transaction_timeout)
    try:
        with decision_lock(engine) as connection:
            change, asset = _decide(connection, options)
    except DecisionRefused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    except DATABASE_ERRORS as error:
        sys.stderr.write(f"Nothing was changed: {describe(explain(engine, error)).rstrip('.')}.\n")
        return 1
    finally:
        engine.dispose()
    created = f" The listings now belong to {asset}." if asset else ""
    # The command may need a prefix, such as `docker compose exec worker`, which this process does not know.
    undo = f'repeat this command with `undo {change} --reason "…"` in place of `{options.action} …`'
    sys.stdout.write(f"Recorded as change {change}.{created}\n")
    sys.stdout.write(f"To undo it, {undo}, or send POST /decisions/{change}/undo.\n")
    return 0


def _decide(connection: Connection, options: argparse.Namespace) -> tuple[UUID, str]:
    """Record the decision. Return the change's id, and the slug of the new asset, which is empty except for a split."""
    by = f"cli:{options.by}"
    if options.action == "merge":
        return merge(connection, options.asset, options.into, Verdict("merged", by, reason=options.reason)), ""
    if options.action == "split":
        return split(connection, options.asset, options.listings, Verdict("split", by, reason=options.reason))
    if options.action == "pin":
        return pin(connection, options.asset, options.listings, Verdict("pinned", by, reason=options.reason)), ""
    return revert_change(connection, options.change, by, options.reason), ""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks decide", description=(__doc__ or "").splitlines()[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--reason", required=True, help="reason, stored with the decision")
    common.add_argument("--by", default=getpass.getuser(), help="who decided (default: the current user)")
    actions = parser.add_subparsers(dest="action", required=True)
    action = actions.add_parser("merge", parents=[common], help="move all listings of an asset to another asset")
    action.add_argument("asset", help="slug of the asset to merge")
    action.add_argument("into", help="slug of the asset to move the listings to")
    for name, help_ in (
        ("split", "move listings from an asset to a new asset"),
        ("pin", "move listings to an asset, and keep them there"),
    ):
        action = actions.add_parser(name, parents=[common], help=help_)
        action.add_argument("asset", help="the asset's slug")
        action.add_argument("listings", nargs="+", type=_listing, metavar="source:id", help="such as coingecko:bitcoin")
    action = actions.add_parser("undo", parents=[common], help="move the listings of a change back")
    action.add_argument("change", type=UUID, help="the change's id")
    return parser


def _listing(text: str) -> ListingName:
    source, colon, id_ = text.partition(":")
    if not (source and colon and id_):
        raise argparse.ArgumentTypeError(f"expected source:id, such as coingecko:bitcoin, got {text!r}")
    return source, id_
