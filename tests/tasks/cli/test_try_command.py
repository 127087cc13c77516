"""Test that `python -m tasks try` shows what a source would load, without Postgres, Redis and registration."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from sources.redaction import process_redactor
from tasks.cli import try_pages
from tasks.cli.try_command import main, parser
from tests.processes import ROOT

KEY = "s3cret-key-of-the-desk"
AT = "2026-01-31T00:00:00Z"
PRICES = [
    {"id": "x1", "ticker": "BTC", "title": "Bitcoin", "usd": "93340.5", "at": AT},
    {"id": "x2", "ticker": "ETH", "title": "Ethereum", "usd": "3100.25", "at": "2026-01-31T00:01:00Z"},
    {"id": "x3", "ticker": "BAD", "title": "Bad", "usd": "much", "at": AT},
]
FEED = '''"""A feed, page by page."""

from datetime import timedelta

from sources import Page, Rate, Source, Upstream, json_list


def fetch(window, http):
    number = window.cursor["next"] if window.cursor else 1
    while number:
        response = http.get("/prices", {"page": number, "limit": 3})
        number = number + 1 if json_list(response.body) else None
        yield Page.of(response, cursor={"next": number})


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
    every=timedelta(minutes=5),
    rate=Rate(per_minute=60),
    upstreams={"desk": Upstream("https://prices.example.com/v1", key_header="X-Api-Key")},
    fetch=fetch,
    parse=parse,
    normalize=normalize,
)
'''
FILES = '''"""Files."""

from dataclasses import replace
from datetime import timedelta

from sources import FileSet, csv_source

source = csv_source("NAME", timedelta(hours=1), (FileSet(
    pattern="closes/*.csv", delimiter=";", decimal=",",
    columns={"source_asset_id": "coin", "symbol": "coin", "name": "name", "observed_at": "day", "price": "close"},
    constants={"quote_currency": "USD"}, times=("%d.%m.%Y",),
),))
'''
ROWS = "day;coin;name;close\n31.01.2026;BTC;Bitcoin;93340,5\n01.02.2026;BTC;Bitcoin;n/a\n\n02.02.2026;BTC;Bitcoin;9e3\n"

_numbers = count()


@pytest.fixture(scope="module")
def server() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield server


@pytest.fixture
def upstream(server: HTTPServer) -> HTTPServer:
    server.clear()
    return server


Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a module outside the repository, and returns its name, which is its source's."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str) -> str:
        name = f"tried_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(text.replace("NAME", name))
        return name

    return write


@pytest.fixture
def feed(write: Write, upstream: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a variation of FEED, whose upstream is on loopback."""

    def feed(text: str = FEED) -> str:
        name = write(text)
        monkeypatch.setenv(f"{name.upper()}_URL", upstream.url_for("/v1"))
        monkeypatch.setenv(f"{name.upper()}_API_KEY", KEY)
        return name

    return feed


def serve(upstream: HTTPServer, *pages: Any) -> None:
    """Serve these bodies as pages, for requests with the key only."""
    for number, body in enumerate(pages, 1):
        request = upstream.expect_request(
            "/v1/prices", query_string={"page": str(number), "limit": "3"}, headers={"X-Api-Key": KEY}
        )
        request.respond_with_json(body)


def test_an_unregistered_source_is_tried_without_the_stack(feed: Write, upstream: HTTPServer, tmp_path: Path) -> None:
    serve(upstream, PRICES, [])
    name = feed()
    environ = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    process = subprocess.run(
        [sys.executable, "-m", "tasks", "try", name, "--pages", "5"],
        env={**environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    for line in (
        f"{name}, page 1: GET {upstream.url_for('/v1/prices')}?page=1&limit=3, ",
        '  item 0    {"id": "x1", "ticker": "BTC"',
        "       →    x1 (BTC, Bitcoin): 93340.5 USD at 2026-01-31T00:00:00+00:00\n",
        "       →    rejected: price: expected a number, got 'much'\n",
        "  counts    3 items: 2 quotes, 1 rejected\n",
        "  rejected  1 not_a_number (price), the first: expected a number, got 'much'\n",
        '              item 2: {"id": "x3"',
        '  cursor    {"next": 2}\n',
        f"{name}, page 2: ",
        f"{name}: 2 quotes, 0 warnings. Nothing was stored.\n",
    ):
        assert line in process.stdout
    assert KEY not in process.stdout


def test_a_page_that_repeats_another_is_shown(
    feed: Write, upstream: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(upstream, PRICES, PRICES, [])
    assert main([feed(), "--pages", "3"]) == 0
    assert "  warning   Page 2 repeats page 1; does the upstream ignore a parameter?\n" in capsys.readouterr().out


def test_one_page_is_one_request(feed: Write, upstream: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    serve(upstream, PRICES, PRICES)
    assert main([feed()]) == 0
    assert len(upstream.log) == 1
    assert "page 2" not in capsys.readouterr().out


def test_the_rate_limit_is_kept_and_the_fetch_resumes_at_its_cursor(
    feed: Write, upstream: HTTPServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(try_pages, "MINUTE", 0.2)
    serve(upstream, PRICES, PRICES[:2], [])
    assert main([feed(FEED.replace("per_minute=60", "per_minute=1")), "--pages", "2"]) == 0
    output = capsys.readouterr()
    assert output.err == "Waiting 0 s for the rate limit.\n"
    assert [request.args["page"] for request, _ in upstream.log] == ["1", "2"]
    assert output.out.count(", page ") == 2


def test_the_error_of_an_upstream_is_shown_after_the_pages_before_it(
    feed: Write, upstream: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(upstream, PRICES)
    upstream.expect_request("/v1/prices").respond_with_data(f"no access with {KEY}", status=403)
    name = feed()
    assert main([name, "--pages", "2"]) == 1
    output = capsys.readouterr().out
    assert f"{name}, page 1: " in output
    assert "  error     key_refused: " in output
    assert f"{name}: 2 quotes before the error.\n" in output
    assert "no access with [hidden]" in output


def test_a_missing_key_is_named(
    feed: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = feed()
    monkeypatch.delenv(f"{name.upper()}_API_KEY")
    assert main([name]) == 1
    assert f"misconfigured: Set {name.upper()}_API_KEY" in capsys.readouterr().out


def test_a_stored_body_needs_neither_upstream_nor_key(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "body.json").write_text(f'[{{"id": "x1", "ticker": "BTC", "title": "B", "usd": 1.10, "at": "{AT}"}}]')
    name = write(FEED)
    assert main([name, "--file", str(tmp_path / "body.json")]) == 0
    output = capsys.readouterr().out
    assert f"{name}, page 1: {tmp_path / 'body.json'}, " in output
    assert "x1 (BTC, B): 1.10 USD" in output


def test_an_exception_of_the_source_is_shown_with_its_line(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "body.json").write_text("[]")
    name = write(FEED.replace("return json_list(page.body)", 'return json_list(page.body)[7]["x"]'))
    assert main([name, "--file", str(tmp_path / "body.json")]) == 1
    output = capsys.readouterr().out
    assert (
        f"  error     source_error: {name}: IndexError: list index out of range ({tmp_path / name}.py:17)\n" in output
    )
    assert "Traceback" not in output


@pytest.mark.parametrize("has_copy_in_csv_dir", [True, False], ids=["all files", "one file"])
def test_a_csv_file_is_read_by_its_file_set(
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    has_copy_in_csv_dir: bool,
) -> None:
    (tmp_path / "data/closes").mkdir(parents=True)
    (tmp_path / "data/closes/2026.csv").write_text(ROWS)
    name = write(FILES)
    if has_copy_in_csv_dir:
        monkeypatch.setenv("CSV_DIR", str(tmp_path / "data"))
        assert main([name]) == 0
    else:
        assert main([name, "--file", str(tmp_path / "data/closes/2026.csv")]) == 0
    output = capsys.readouterr().out
    for line in (
        f"{name}, page 1: closes/2026.csv, from line 2, ",
        "       →    BTC (BTC, Bitcoin): 93340.5 USD at 2026-01-31T00:00:00+00:00\n",
        "  counts    3 items: 2 quotes, 1 rejected, 1 blank\n",
        "the first: expected a number such as 1234,5, got 'n/a'\n",
        "  columns   the same as `parse`\n",
        f"{name}: 2 quotes, 0 warnings. Nothing was stored.\n",
    ):
        assert line in output


def test_a_file_that_no_file_set_expects_is_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "2026.csv").write_text(ROWS)
    assert main([write(FILES), "--file", str(tmp_path / "2026.csv")]) == 1
    assert "no file set has a pattern that matches it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("frame.with_columns(price=pl.lit('2'))", "BTC in USD at 2026-01-31T00:00:00+00:00: price is 2 by `columns`"),
        ("frame.head(1)", "BTC in USD at 2026-02-02T00:00:00+00:00: a quote by `parse`, none by `columns`"),
        (
            "frame.with_columns(pl.lit('B').alias('symbol'))",
            "BTC in USD at 2026-01-31T00:00:00+00:00: symbol is B by `columns`, BTC by `parse`",
        ),
    ],
)
def test_columns_that_disagree_with_parse_fail(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, difference: str
) -> None:
    (tmp_path / "closes").mkdir()
    (tmp_path / "closes/2026.csv").write_text(ROWS)
    name = write(f"""{FILES}
import polars as pl

files = source.columns


def columns(page):
    result = files(page)
    frame = result.frame
    return replace(result, frame={change})


source = replace(source, columns=columns)
""")
    assert main([name, "--file", str(tmp_path / "closes/2026.csv")]) == 1
    output = capsys.readouterr().out
    assert f"  columns   {difference}" in output
    assert "but some results contradict each other.\n" in output


def test_items_that_contradict_each_other_fail(
    feed: Write, upstream: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(upstream, [PRICES[0], {**PRICES[0], "usd": "5"}])
    assert main([feed()]) == 1
    assert (
        "  conflicts 1 item contradicts a later one, the first for x1 in USD at 2026-01-31T00:00:00+00:00: "
        "price 93340.5 and 5\n" in capsys.readouterr().out
    )


def test_a_source_without_a_quote_fails(feed: Write, upstream: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    serve(upstream, [PRICES[2]])
    assert main([feed()]) == 1
    assert "0 quotes. Correct the source before you register it.\n" in capsys.readouterr().out


def test_a_broken_source_has_the_sentence_of_the_start(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(FEED.replace("per_minute=60", "per_minute=-5"))
    assert main([name]) == 1
    assert capsys.readouterr().err == (
        f"{name}: broken: {name}: {tmp_path / name}.py:34: Rate: per_minute must be a whole number of 1 or more, "
        "or None for no limit, but is -5.\n"
    )


def test_the_sentence_about_a_broken_source_has_no_secret(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    process_redactor().add(KEY)
    assert main([write(FEED.replace("timedelta(minutes=5)", f'"{KEY}"'))]) == 1
    assert "every must be a timedelta of at least" in (error := capsys.readouterr().err)
    assert "but is '[hidden]'" in error


def test_a_module_in_a_package_that_fails_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "failing_feeds").mkdir()
    (tmp_path / "failing_feeds/__init__.py").write_text("1 // 0")
    (tmp_path / "failing_feeds/desk.py").write_text("")
    assert main(["failing_feeds.desk"]) == 1
    assert "cannot import failing_feeds.desk: ZeroDivisionError: " in capsys.readouterr().err
    assert main(["absent_feeds.desk"]) == 2


def test_the_sources_of_a_module_are_tried_one_by_one(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "body.json").write_text("[]")
    text = FEED.replace("source = Source(", "first = Source(").replace("NAME", "several_first")
    name = write(f'{text}\nfrom dataclasses import replace\n\nsources = [first, replace(first, name="several_second")]')
    assert main([name, "--file", str(tmp_path / "body.json")]) == 1
    output = capsys.readouterr().out
    assert ["several_first: 0 quotes" in output, "several_second: 0 quotes" in output] == [True, True]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("coingeko", "did you mean 'coingecko'?"),
        ("sources.coingeko", "did you mean 'sources.coingecko'?"),
        ("sources/coingecko.py", "did you mean 'sources.coingecko'?"),
        ("nothing.like.it", "the sources are coinpaprika, coingecko, csv_history."),
        ("..", "the sources are coinpaprika, coingecko, csv_history."),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert capsys.readouterr().err == f"There is no source and no module {name!r}; {hint}\n"


@pytest.mark.parametrize("pages", ["0", "-1", "x"])
def test_a_wrong_number_of_pages_is_refused(pages: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args(["coingecko", f"--pages={pages}"])
    assert end.value.code == 2
    assert f"expected a whole number of 1 or more, got {pages!r}" in capsys.readouterr().err
