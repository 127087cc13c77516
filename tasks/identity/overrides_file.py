"""What people have settled beforehand, in a file under version control: which asset a listing is of."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from celery.signals import celeryd_init

from settings import SettingsError, get_settings
from sources.registry import SOURCES
from tasks.identity.decisions import ListingName, Override, Overrides

COLUMNS = ["source", "source_asset_id", "asset", "reason"]
SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def read_overrides(path: Path) -> Overrides:
    """Read a CSV file with the columns source, source_asset_id, asset and reason.

    Raises SettingsError, which lists every mistake in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"OVERRIDES: {path} cannot be read: {error}") from None
    rows = csv.DictReader(text.splitlines(), strict=True)
    if rows.fieldnames != COLUMNS:
        raise SettingsError(f"OVERRIDES: {path}, line 1: expected the header {','.join(COLUMNS)}")
    found: dict[ListingName, Override] = {}
    mistakes = []
    try:
        for row in rows:
            name = (row["source"], row["source_asset_id"])
            mistakes += [f"{path}, line {rows.line_num}: {wrong}" for wrong in _wrong(row, again=name in found)]
            found[name] = Override(row["asset"], row["reason"])
    except csv.Error as error:
        mistakes.append(f"{path}, line {rows.line_num}: {error}")
    if mistakes:
        raise SettingsError("OVERRIDES:\n" + "\n".join(mistakes))
    return found


def _wrong(row: Mapping[str | None, str | list[str] | None], *, again: bool) -> Iterator[str]:
    if None in row or None in row.values():
        yield f"expected {len(COLUMNS)} cells"
        return
    source, asset = str(row["source"]), str(row["asset"])
    if source not in SOURCES:
        close = get_close_matches(source, SOURCES, n=1)
        yield f"there is no source {source!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if not row["source_asset_id"]:
        yield "source_asset_id: expected the id that the source has for it, got none"
    if not SLUG.fullmatch(asset):
        yield f"asset: expected a slug, such as bitcoin, got {asset!r}"
    if again:
        yield f"{row['source_asset_id']!r} of {source} is named twice"


@cache
def get_overrides() -> Overrides | None:
    """What the file holds that OVERRIDES names, read at the first call; raises SettingsError.

    None where no file is named: that is not one in which nothing stands.
    """
    file = get_settings().overrides
    return read_overrides(Path(file)) if file else None


@celeryd_init.connect
def _read_before_there_are_children(**_: Any) -> None:
    """So that all of a worker go by the same file, and none of them begins with one that has a mistake in it."""
    try:
        get_overrides()
    except SettingsError as error:
        sys.exit(str(error))
