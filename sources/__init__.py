"""Read market data from its origins: HTTP upstreams and CSV files.

Everything that the author of a source needs can be imported from here; sources/contract.py explains it.
"""

from sources.contract import (
    BLANK,
    CatchUp,
    Columns,
    Cursor,
    DriftPolicy,
    History,
    HistoryWindow,
    Http,
    Item,
    Page,
    Rate,
    Reject,
    Response,
    Retention,
    Source,
    TerminalError,
    TransientError,
    Upstream,
    Window,
)
from sources.csv.fileset import SUFFIXES, FileSet
from sources.csv.source import csv_source
from sources.http.json_body import json_list, read_json

__all__ = [
    "BLANK",
    "SUFFIXES",
    "CatchUp",
    "Columns",
    "Cursor",
    "DriftPolicy",
    "FileSet",
    "History",
    "HistoryWindow",
    "Http",
    "Item",
    "Page",
    "Rate",
    "Reject",
    "Response",
    "Retention",
    "Source",
    "TerminalError",
    "TransientError",
    "Upstream",
    "Window",
    "csv_source",
    "json_list",
    "read_json",
]
