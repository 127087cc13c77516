"""Where data comes from: HTTP, files, and the shape of a unified record.

Everything that the author of a source needs is imported from here.
"""

from sources.contract import (
    History,
    HistoryWindow,
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
from sources.csv.fileset import FileSet
from sources.csv.source import source as csv_source
from sources.http.json_body import json_list, read_json

__all__ = [
    "FileSet",
    "History",
    "HistoryWindow",
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
