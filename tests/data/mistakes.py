"""Declare deliberate mistakes in a source's module, each with the message that its author must see."""

from __future__ import annotations

from typing import NamedTuple

MODULE = '''"""A feed."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sources import FileSet, History, Page, Rate, Retention, Source, Upstream, csv_source, json_list

ITEMS = [{"id": "x1", "ticker": "BTC", "title": "Bitcoin", "usd": "1.5", "at": "2026-01-01T00:00:00Z"}]


def fetch(window, http):
    if window.cursor and window.cursor["run"] == window.run:
        return
    body = json.dumps(ITEMS).encode()
    yield Page(body, "application/json", {"page": 1}, window.now, {"run": window.run})


def parse(page):
    return json_list(page.body)


def normalize(item):
    return {
        "source_asset_id": item["id"],
        "symbol": item["ticker"],
        "name": item["title"],
        "quote_currency": "USD",
        "observed_at": item["at"],
        "price": item["usd"],
    }


source = Source(
    name="NAME",
    every=timedelta(hours=1),
    fetch=fetch,
    parse=parse,
    normalize=normalize,
)
'''
GOOD = "good"
YIELD = 'yield Page(body, "application/json", {"page": 1}, window.now, {"run": window.run})'
FETCH = f"""    if window.cursor and window.cursor["run"] == window.run:
        return
    body = json.dumps(ITEMS).encode()
    {YIELD}
"""
RETURN_ITEMS = "return json_list(page.body)"
EVERY = "every=timedelta(hours=1),"
SOURCE_CALL = MODULE[MODULE.index("source = Source(") :]
FILES = """source = csv_source("NAME", timedelta(hours=1), (FileSet(
    pattern="x.csv", columns={"price": "p", "observed_at": "t"},
    constants={"source_asset_id": "X", "symbol": "X", "name": "X", "quote_currency": "USD"},
),))
"""


class Mistake(NamedTuple):
    """A mistake: what is replaced in the module, and the message. {file} stands for the path of the module."""

    name: str
    old: str
    new: str
    message: str

    def text(self) -> str:
        assert self.old in MODULE, self.name
        return MODULE.replace(self.old, self.new, 1).replace('"NAME"', f'"{self.name}"')


def _source(name: str, more: str, message: str) -> Mistake:
    return Mistake(name, EVERY, f"{EVERY}\n    {more}", "{file}:34: source '" + name + "': " + message)


def _files(name: str, old: str, new: str, message: str) -> Mistake:
    assert old in FILES, name
    return Mistake(name, SOURCE_CALL, FILES.replace(old, new), message)


BROKEN = (
    Mistake("syntax", "def parse(page):", "def parse(page:", "EXTRA_SOURCES: cannot import syntax: SyntaxError: "),
    Mistake("module_missing", "import json\n", "import jsom\n", "No module named 'jsom' ({file}:3)"),
    Mistake("name_missing", "json_list\n", "jsonlist\n", "cannot import name 'jsonlist' from 'sources'"),
    Mistake("no_source", "source = Source(", "sourec = Source(", "did you mean to name 'sourec' `source`?"),
    Mistake("no_argument", "    parse=parse,\n", "", "missing 1 required positional argument: 'parse' ({file}:34)"),
    Mistake("own_error", "ITEMS = [", "1 / 0\nITEMS = [", "ZeroDivisionError: division by zero ({file}:9)"),
    Mistake("exits", "ITEMS = [", "raise SystemExit(0)\nITEMS = [", "SystemExit: 0 ({file}:9)"),
    Mistake("bad_name", '"NAME"', '"Bad/Name"', "name must be a letter and up to 62 letters, digits and underscores"),
    Mistake("double_name", '"NAME"', '"good"', "double_name declares the source 'good', but good declares it, too"),
    Mistake("not_a_source", "source = Source(", "source = dict(", "not_a_source.source must be a sources.Source"),
    Mistake("every_number", EVERY, "every=300,", "every must be a timedelta of at least 0:00:01 and at most 366 days"),
    Mistake("every_zero", EVERY, "every=timedelta(0),", "such as timedelta(minutes=5), but is datetime.timedelta(0)"),
    Mistake(
        "parse_none",
        "parse=parse",
        "parse=None",
        "{file}:34: source 'parse_none': parse must be a function, but is None",
    ),
    _source("rate_number", "rate=60,", "rate must be a Rate, such as Rate(per_minute=60), but is 60"),
    _source("upstreams_text", 'upstreams="http://x",', "upstreams must be a mapping of names to Upstream, such as"),
    _source("fresh_zero", "fresh=timedelta(0),", "fresh must be a timedelta of more than 0 and at most 366 days"),
    _source("drift_unknown", 'drift={"price": "ignore"},', "drift must be a mapping of fields to evolve, discard"),
    _source("shared_text", 'is_shared="no",', "is_shared must be True or False, but is 'no'"),
    _source(
        "catch_up_unknown", 'catch_up="sometimes",', "catch_up must be one of latest, all, skip, but is 'sometimes'"
    ),
    Mistake(
        "rate_negative",
        EVERY,
        f"{EVERY}\n    rate=Rate(per_minute=-5),",
        "{file}:37: Rate: per_minute must be a whole number of 1 or more, or None for no limit, but is -5",
    ),
    Mistake(
        "rate_zero",
        EVERY,
        f"{EVERY}\n    rate=Rate(per_minute=0),",
        "per_minute must be a whole number of 1 or more, or None for no limit, but is 0",
    ),
    Mistake("rate_text", EVERY, f'{EVERY}\n    rate=Rate(per_minute="60"),', "or None for no limit, but is '60'"),
    Mistake(
        "no_scheme",
        EVERY,
        f'{EVERY}\n    upstreams={{"a": Upstream("prices.example.com/v1")}},',
        "Upstream: url must be a URL such as https://prices.example.com/v1, with http:// or https://",
    ),
    Mistake(
        "bad_header",
        EVERY,
        f'{EVERY}\n    upstreams={{"a": Upstream("https://x.example", "X-Key: ")}},',
        "key_header must be the name of a header, such as X-Api-Key, or None, but is 'X-Key: '",
    ),
    Mistake(
        "kept_days",
        EVERY,
        f"{EVERY}\n    retention=Retention(quotes=30),",
        "quotes must be a timedelta of more than 0, such as timedelta(days=30), or None, but is 30",
    ),
    Mistake(
        "history_number",
        EVERY,
        f"{EVERY}\n    history=History(90, fetch, parse, normalize),",
        "History: span must be a timedelta of more than 0, such as timedelta(days=90), but is 90",
    ),
    Mistake(
        "fetch_arguments",
        "def fetch(window, http):",
        "def fetch(http):",
        "fetch must be a function such as fetch(window, http), but is the function fetch(http)",
    ),
    Mistake("async_fetch", "def fetch(", "async def fetch(", "fetch must be a plain function, but is async"),
    Mistake(
        "returns_pages",
        YIELD,
        YIELD.replace("yield Page(", "return [Page(") + "]",
        "fetch must yield pages, but returns none in line ",
    ),
    Mistake(
        "returns_and_yields",
        YIELD,
        f"{YIELD}\n    return [body]",
        "fetch yields and also returns a value in line 17, which would be lost",
    ),
    Mistake(
        "normalize_yields",
        "    return {\n",
        "    yield {\n",
        "normalize must return a dict of fields, but yields; use return",
    ),
    _files(
        "zone_name",
        'pattern="x.csv",',
        'pattern="x.csv", times=("%Y %Z",),',
        "file set 'x.csv': times has the format '%Y %Z': %Z: the name of a time zone is read and ignored",
    ),
    _files(
        "epoch_ns",
        'pattern="x.csv",',
        'pattern="x.csv", times=("epoch_ns",),',
        "times has the format 'epoch_ns': no time has it",
    ),
    _files("no_price", '"price": "p", ', "", "each quote needs price; declare each in columns, constants or templates"),
    Mistake("wrong_setting", '"NAME"', '"NAME"', "WRONG_SETTING_EVERY: Not a valid number."),
    Mistake(
        "unknown_setting",
        '"NAME"',
        '"NAME"',
        "UNKNOWN_SETTING_EVRY is set, but a source has no setting EVRY; did you mean UNKNOWN_SETTING_EVERY?",
    ),
    Mistake(
        "misspelt_prefix",
        '"NAME"',
        '"NAME"',
        "MISPELT_PREFIX_EVERY: there is no such setting; did you mean MISSPELT_PREFIX_EVERY?",
    ),
)
"""Mistakes that are seen when the service starts."""

FAILED = (
    Mistake(
        "no_cursor",
        ', {"run": window.run})',
        ")",
        "no_cursor: TypeError: Page.__init__() missing 1 required positional argument: 'cursor' ({file}:16)",
    ),
    Mistake(
        "cursor_time",
        '{"run": window.run})',
        '{"run": window.run, "at": window.now})',
        '{file}:16: Page: cursor must be a JSON object such as {{"next": 2}}, without times and Decimals, or None',
    ),
    Mistake(
        "naive_fetch",
        "window.now,",
        "datetime(2026, 1, 1),",
        "fetched_at must be an aware datetime, such as response.fetched_at",
    ),
    Mistake(
        "misspelt_member",
        "json.dumps(ITEMS)",
        'json.dumps(ITEMS[0]["dta"])',
        "misspelt_member: KeyError: 'dta' ({file}:15)",
    ),
    Mistake(
        "yields_dict",
        YIELD,
        'yield {"body": body}',
        "yields_dict: fetch must yield pages, such as Page.of(response, cursor={{…}}), but yielded a dict ({file}:12)",
    ),
    Mistake(
        "returns_variable",
        FETCH,
        f"    body = json.dumps(ITEMS).encode()\n    pages = [{YIELD.removeprefix('yield ')}]\n    return pages\n",
        "returns_variable: fetch must yield pages, but returned a list; replace return with yield ({file}:12)",
    ),
    Mistake(
        "parse_nothing",
        RETURN_ITEMS,
        "json_list(page.body)",
        "parse_nothing: parse must return a list of items or yield them, but returned None ({file}:19)",
    ),
    Mistake(
        "parse_text",
        RETURN_ITEMS,
        "return page.body.decode()",
        "parse must return a list of items or yield them, but returned a str",
    ),
    Mistake(
        "parse_object",
        RETURN_ITEMS,
        "return json_list(page.body)[0]",
        "parse must return a list of items or yield them, but returned a dict",
    ),
    Mistake(
        "parse_fails",
        RETURN_ITEMS,
        'return [item["x"] for item in json_list(page.body)]',
        "parse_fails: KeyError: 'x' ({file}:20)",
    ),
)
"""Mistakes that are seen when the source runs: the error of its run."""

REJECTED = (
    Mistake(
        "misspelt_input",
        'item["ticker"]',
        'item["tikcer"]',
        "the mapping of misspelt_input failed: KeyError('tikcer') ({file}:26); did you mean 'ticker'?",
    ),
    Mistake(
        "misspelt_output",
        '"symbol":',
        '"symbl":',
        "expected a field of the unified record; `normalize` must return no others; did you mean 'symbol'? ({file}:23)",
    ),
    Mistake("float_price", 'item["usd"]', "1.0", "expected a number, got 1.0"),
    Mistake("naive_time", 'item["at"]', '"2026-01-01T00:00:00"', "expected a time with its offset from UTC"),
    Mistake("epoch_time", 'item["at"]', "1767225600", "expected a time with its offset from UTC, got 1767225600"),
    Mistake(
        "no_fields",
        "    return {\n",
        "    fields = {\n",
        "the mapping of no_fields returned NoneType, expected a mapping of fields ({file}:23)",
    ),
)
"""Mistakes that reject each item: the reason of the reject."""

SETTINGS = {
    "WRONG_SETTING_EVERY": "abc",
    "UNKNOWN_SETTING_EVRY": "5",
    "MISPELT_PREFIX_EVERY": "5",
    "GOOD_SERVICE_HOST": "10.0.0.1",
    "GOOD_PORT_80_TCP": "tcp://10.0.0.1:80",
}
"""Wrong settings, and variables that Kubernetes sets, which are innocent."""
