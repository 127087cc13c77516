"""Read the overrides file, where people assign listings to assets under version control."""

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
from sources.registry import BROKEN, SOURCES
from tasks.identity.decisions import ListingName, Override, Overrides

COLUMNS = ["source", "source_asset_id", "asset", "reason"]
SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def read_overrides(path: Path) -> Overrides:
    """Read a CSV file with the columns source, source_asset_id, asset and reason.

    Raise SettingsError with every error in the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"OVERRIDES: {path} cannot be read: {error}") from None
    rows = csv.DictReader(text.splitlines(), strict=True)
    if rows.fieldnames != COLUMNS:
        raise SettingsError(f"OVERRIDES: {path}, line 1: expected the header {','.join(COLUMNS)}")
    overrides: dict[ListingName, Override] = {}
    errors = []
    try:
        for row in rows:
            name = (row["source"], row["source_asset_id"])
            for message in _find_errors(row, is_duplicate=name in overrides):
                errors.append(f"{path}, line {rows.line_num}: {message}")
            overrides[name] = Override(row["asset"], row["reason"])
    except csv.Error as error:
        errors.append(f"{path}, line {rows.line_num}: {error}")
    if errors:
        raise SettingsError("OVERRIDES:\n" + "\n".join(errors))
    return overrides


def _find_errors(row: Mapping[str | None, str | list[str] | None], *, is_duplicate: bool) -> Iterator[str]:
    if None in row or None in row.values():
        yield f"expected {len(COLUMNS)} cells"
        return
    source, asset = str(row["source"]), str(row["asset"])
    if source not in SOURCES and source not in BROKEN:
        close = get_close_matches(source, [*SOURCES, *BROKEN], n=1)
        yield f"there is no source {source!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if not row["source_asset_id"]:
        yield "source_asset_id: expected the source's own id for the asset, got none"
    if not SLUG.fullmatch(asset):
        yield f"asset: expected a slug, such as bitcoin, got {asset!r}"
    if is_duplicate:
        yield f"the listing {row['source_asset_id']!r} of {source} is already on an earlier line"


@cache
def get_overrides() -> Overrides | None:
    """Return the content of the file that OVERRIDES names, which is read at the first call. Raise SettingsError.

    Return None if OVERRIDES is not set. In contrast, an empty file releases all listings.
    """
    file = get_settings().overrides
    return read_overrides(Path(file)) if file else None


@celeryd_init.connect
def _read_before_forking(**_: Any) -> None:
    """Read the file before a worker starts its processes, and exit if the file is invalid.

    All processes of a worker then have the same overrides.
    """
    try:
        get_overrides()
    except SettingsError as error:
        sys.exit(str(error))
