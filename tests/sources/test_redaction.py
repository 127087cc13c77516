"""Test that a secret is found in every form in which a program may repeat it."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest

from sources.redaction import HIDDEN, MAX_ADDED_SECRETS, Redactor

SECRETS = ("k3y'of\"coin\\gecko/+=é€x", "CG-abcdef0123456789", "p4ss w0rd&more<>%25")


def forms(secret: str) -> dict[str, str]:
    """Return the secret in the encodings that upstreams, libraries and tracebacks use."""
    data = secret.encode()
    lower = re.sub("%..", lambda escape: escape[0].lower(), quote(secret, safe=""))
    escaped = {
        "plain": secret,
        "percent": quote(secret, safe=""),
        "percent, lower": lower,
        "percent, twice": quote(quote(secret, safe=""), safe=""),
        "percent, all": "".join(f"%{byte:02X}" for byte in data),
        "JSON": json.dumps(secret)[1:-1],
        "JSON, unicode": json.dumps(secret, ensure_ascii=False)[1:-1],
        "JSON in JSON": json.dumps(json.dumps(secret))[1:-1],
        "JSON, slashes": json.dumps(secret)[1:-1].replace("/", "\\/"),
        "JSON, all": "".join(f"\\u{ord(char):04X}" for char in secret),
        "repr": repr(secret)[1:-1],
        "bytes": repr(data)[2:-1],
        "HTML": html.escape(secret),
        "HTML, all": "".join(f"&#x{ord(char):x};" for char in secret),
        "HTML, decimal": "".join(f"&#{ord(char)};" for char in secret),
        "hex": data.hex(),
        "HEX": data.hex().upper(),
    }
    for before in ("", "a", "ab", "user:"):
        for after in ("", "z", "zz"):
            text = f"{before}{secret}{after}".encode()
            escaped[f"base64 {before}|{after}"] = b64encode(text).decode()
            escaped[f"base64url {before}|{after}"] = urlsafe_b64encode(text).decode().rstrip("=")
    return escaped


@pytest.mark.parametrize("secret", SECRETS)
def test_each_form_of_a_secret_is_hidden_and_found(secret: str) -> None:
    redactor = Redactor(SECRETS)
    for name, form in forms(secret).items():
        text = f"before {form} after"
        assert HIDDEN in redactor.hide(text), name
        assert form not in redactor.hide(text), name
        assert redactor.is_in(text.encode()), name


def test_a_text_without_a_secret_is_unchanged() -> None:
    redactor = Redactor(SECRETS)
    for text in ("CG-abcdef012345678", "%43%47-abc \\u0043 &#67;", quote_plus("p4ss w0r"), ""):
        assert redactor.hide(text) == text
        assert not redactor.is_in(text.encode())
    assert Redactor([""]).hide("text") == "text"


def test_a_secret_far_inside_a_large_body_is_found() -> None:
    redactor = Redactor(SECRETS)
    padding = b'{"price": "1.5"}, ' * 20_000
    assert not redactor.is_in(padding)
    assert redactor.is_in(padding + b64encode(b"me:" + SECRETS[1].encode()) + padding)


def test_added_secrets_are_hidden_until_newer_ones_replace_them() -> None:
    redactor = Redactor(["fixed-secret"])
    tokens = [f"token-{number:04d}" for number in range(MAX_ADDED_SECRETS + 1)]
    for token in tokens:
        redactor.add(token)
    assert redactor.hide(f"fixed-secret {tokens[1]} {tokens[-1]}") == f"{HIDDEN} {HIDDEN} {HIDDEN}"
    assert redactor.hide(tokens[0]) == tokens[0]
