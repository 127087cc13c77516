"""Test that a report fits a terminal, hides secrets and control characters, and has the right exit status."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from settings import get_settings
from sources.contract import Page, Response
from sources.redaction import process_redactor
from tasks.cli.try_items import try_page
from tasks.cli.try_report import PIPED_WIDTH, Report
from tests.tasks.cli.test_try_items import ITEM
from tests.upstreams import FETCHED, canned


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(*items: Any, out: io.StringIO | None = None, **changes: Any) -> Report:
    """Return a report of one page with these items."""
    source = canned()
    page = replace(Page(json.dumps(items).encode(), "application/json", {"page": 1}, FETCHED, None), **changes)
    written = Report(out or io.StringIO(), source)
    written.add(try_page(source, "", page, get_settings(), is_last=False))
    return written


def lines(written: Report) -> list[str]:
    assert isinstance(written.out, io.StringIO)
    return written.out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("items", "error", "status", "result"),
    [
        ([ITEM], None, 0, "canned: 1 quote, 0 warnings. Nothing was stored."),
        ([ITEM], "upstream_refused: no", 1, "canned: 1 quote before the error."),
        ([], None, 1, "canned: 0 quotes. Correct the source before you register it."),
        ([ITEM, {**ITEM, "price": "2"}], None, 1, "canned: 1 quote, but some results contradict each other."),
        ([ITEM, ITEM], None, 0, "canned: 1 quote, 0 warnings. Nothing was stored."),
    ],
)
def test_the_status_is_earned(items: list[Any], error: str | None, status: int, result: str) -> None:
    written = report(*items)
    assert written.end(error) == status
    assert lines(written)[-1] == result


def test_a_source_without_pages_fails() -> None:
    written = Report(io.StringIO(), canned())
    assert written.end(None) == 1
    assert "  error     canned: `fetch` yields no page; does a partition or a file exist?" in lines(written)


def test_rejects_are_counted_by_reason_with_the_first_example() -> None:
    written = report(ITEM, {**ITEM, "price": "a"}, {**ITEM, "price": "b"}, {**ITEM, "symbol": ""})
    output = lines(written)
    assert "  counts    4 items: 1 quote, 3 rejected" in output
    index = output.index("  rejected  2 not_a_number (price), the first: expected a number, got 'a'")
    assert output[index + 1].startswith("              item 1: {")
    assert "  rejected  1 empty (symbol), the first: expected text, got none" in output


def test_a_notice_and_a_waiting_record_are_shown() -> None:
    output = lines(report(ITEM, notice="returns 5 per page", waiting="line 7 waits", cursor={"next": "é"}))
    assert "  notice    returns 5 per page" in output
    assert "  waiting   line 7 waits" in output
    assert '  cursor    {"next": "é"}' in output


def test_the_request_is_shown_with_its_parameters() -> None:
    request = {"method": "GET", "url": "http://x.example/p", "params": {"page": 2, "vs": "usd"}}
    response = Response(b"[]", 200, "application/json", request, FETCHED)
    output = lines(report(response=response, request=request))
    assert output[0] == "canned, page 1: GET http://x.example/p?page=2&vs=usd, 2 bytes"


@pytest.mark.parametrize(("out", "width"), [(Terminal(), 72), (io.StringIO(), PIPED_WIDTH)])
def test_lines_with_data_fit_the_terminal(out: io.StringIO, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    output = lines(report({**ITEM, "name": "n" * 280}, out=out))
    assert max(map(len, output)) == width


def test_secrets_and_control_characters_are_not_written() -> None:
    secret = "a-Secret-of-the-report"
    process_redactor().add(secret)
    output = "\n".join(lines(report({**ITEM, "name": f"{secret}\x1b[31m\u202e"})))
    assert secret not in output
    assert "[hidden]" in output
    assert "\x1b" not in output
    assert "\u202e" not in output


def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    written = Report(out, canned())
    written.end("source_error: č")
    buffer = out.detach()
    assert isinstance(buffer, io.BytesIO)
    assert b"  error     source_error: \\u010d\n" in buffer.getvalue()
