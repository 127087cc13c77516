"""Test that messages quote the first words of a body in a readable and harmless form."""

from __future__ import annotations

import pytest

from sources.http.words import MAX_WORDS_BYTES, MAX_WORDS_CHARS, quote_words
from sources.redaction import Redactor

FIREWALL = b"""<!DOCTYPE html><html><head><title>Just a moment...</title>
<style>body{color:red}</style><script>var page = "</p><p>not shown";</script></head>
<body><h1>Sorry</h1><p>You have been <b>block</b>ed &amp; banned.
<svg><text>logo</text></svg><template>x</template></p>"""


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"error": "no"}', "application/json", '“{"error": "no"}”'),
        (b" \n two\r\n lines\t\n", "text/plain", "“two lines”"),
        (FIREWALL, "text/html", "HTML with the text “Just a moment... Sorry You have been blocked & banned.”"),
        (FIREWALL, "application/json", "HTML with the text “Just a moment... Sorry You have been blocked & banned.”"),
        (b"<html><script>if (a<b) never()", "text/html", "HTML without text"),
        (b"<Error><Code>AccessDenied</Code></Error>", "application/xml", "“<Error><Code>AccessDenied</Code></Error>”"),
        (b"", "application/json", "an empty body"),
        (b"\x89PNG\x00\x01\x02\x03\xff\xfe\xfd\x04", "image/png", "a body that is not text"),
        ("Für Sie".encode("latin-1"), "text/plain; charset=ISO-8859-1", "“Für Sie”"),
        ('{"error": "nö"}'.encode("utf-16-le"), "", '“{"error": "nö"}”'),
        ('{"error": "nö"}'.encode("utf-16"), "text/plain; charset=utf-8", '“{"error": "nö"}”'),
        (b"plain", "text/plain; charset=unknown-1", "“plain”"),
        (b"plain", "text/plain; charset=hex", "“plain”"),
        ("a\x1b[31m b\u200b\u202ec\x00".encode(), "text/plain", r"“a\x1b[31m b\u200b\u202ec\x00”"),
    ],
)
def test_the_words_of_a_body_are_readable(body: bytes, content_type: str, words: str) -> None:
    assert quote_words(body, content_type) == words


def test_long_words_are_cut() -> None:
    assert quote_words(b"x" * MAX_WORDS_CHARS) == f"“{'x' * MAX_WORDS_CHARS}”"
    assert quote_words(b"x" * (MAX_WORDS_CHARS + 1)) == f"“{'x' * MAX_WORDS_CHARS}…”"


@pytest.mark.parametrize(
    "body",
    [
        "the key s3cret-key is wrong",
        "x" * (MAX_WORDS_CHARS - 4) + " s3cret-key",
        "<html><p>the key s3cret<b>-key</b> is wrong",
        "<html><p>the key s3cret&#45;key is wrong",
        "<html>" + "<i></i>" * ((MAX_WORDS_BYTES - 12) // 7) + "s3cret-key",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_part_of_a_secret_is_quoted(body: str, encoding: str) -> None:
    words = quote_words(body.encode(encoding), "", Redactor(["s3cret-key"]).hide)
    assert "s3" not in words
