"""Test that a wrong declaration of a key is refused with a sentence that names what is expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sources.auth import BasicLogin, ClientCredentials, HeaderKey, QueryKey, Signature, SignedRequest
from sources.contract import Upstream


def message(request: SignedRequest) -> str:
    return request.target


WRONG: dict[str, Callable[..., Any]] = {
    "Upstream: auth must be a tuple of HeaderKey": lambda: Upstream("https://h", auth=QueryKey("k")),  # type: ignore[arg-type]
    "HeaderKey.name must be the name of an HTTP header, but is 'X Key'": lambda: HeaderKey("X Key"),
    "HeaderKey.secret must be one of 'API_KEY', 'API_SECRET', 'API_PASSPHRASE', but is 'KEY'": lambda: HeaderKey(
        "X-Key",
        "KEY",  # type: ignore[arg-type]
    ),
    "QueryKey.name must be a text with at least one character, but is ''": lambda: QueryKey(""),
    "BasicLogin.password must be one of": lambda: BasicLogin(password="hunter2"),  # type: ignore[arg-type]
    "Signature.message must be a function": lambda: Signature("{timestamp}", header="X"),  # type: ignore[arg-type]
    "exactly one of `header` and `query`": lambda: Signature(message),
    "exactly one of": lambda: Signature(message, header="X", query="y"),
    "Signature.digest must be one of 'sha256', 'sha384', 'sha512', but is 'md5'": lambda: Signature(
        message,
        header="X",
        digest="md5",  # type: ignore[arg-type]
    ),
    "Signature.unit must be one of": lambda: Signature(message, header="X", unit="ms"),  # type: ignore[arg-type]
    "ClientCredentials.token_url must be a URL": lambda: ClientCredentials("auth.example.com/token"),
    "contains no user": lambda: ClientCredentials("https://me:s3cret@auth.example.com/token"),
    "Upstream: headers must be a mapping of names of headers to texts": lambda: Upstream(
        "https://h", headers=[("A", "b")]
    ),  # type: ignore[arg-type]
    "Upstream.headers['A'] must be a text": lambda: Upstream("https://h", headers={"A": "b\r\nC: d"}),
}


@pytest.mark.parametrize(("sentence", "declare"), WRONG.items(), ids=WRONG)
def test_a_wrong_declaration_is_refused(sentence: str, declare: Callable[[], object]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — the sentence is compared below
        declare()
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_declaration_names_the_secrets_that_it_needs() -> None:
    assert HeaderKey("X", "API_PASSPHRASE", signed=True).secrets == {"API_PASSPHRASE", "API_SECRET"}
    assert BasicLogin(password=None).secrets == {"API_KEY"}
    assert Signature(message, header="X").secrets == {"API_SECRET"}
    assert ClientCredentials("/oauth/token").secrets == {"API_KEY", "API_SECRET"}
