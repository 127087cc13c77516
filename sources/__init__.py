"""Read market data from HTTP upstreams and CSV files.

To write a source, import everything from this package. sources/contract.py explains the names.
"""

from sources.auth import BasicLogin, ClientCredentials, HeaderKey, QueryKey, Signature, SignedRequest
from sources.contract import (
    BLANK,
    LEFT_OUT,
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
from sources.paging import NumberedPages

__all__ = [
    "BLANK",
    "LEFT_OUT",
    "SUFFIXES",
    "BasicLogin",
    "CatchUp",
    "ClientCredentials",
    "Columns",
    "Cursor",
    "DriftPolicy",
    "FileSet",
    "HeaderKey",
    "History",
    "HistoryWindow",
    "Http",
    "Item",
    "NumberedPages",
    "Page",
    "QueryKey",
    "Rate",
    "Reject",
    "Response",
    "Retention",
    "Signature",
    "SignedRequest",
    "Source",
    "TerminalError",
    "TransientError",
    "Upstream",
    "Window",
    "csv_source",
    "json_list",
    "read_json",
]
