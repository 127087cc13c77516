"""Test GraphQL queries: the request that is stored, and errors that arrive under status 200."""

from __future__ import annotations

import json

import pytest
from pytest_httpserver import HTTPServer

from sources.contract import TransientError
from tests.sources.conftest import Clients, make_response, serve

QUERY = "query($first: Int!) { tokens(first: $first) { symbol } }"


def test_a_query_is_sent_with_its_variables(upstream: HTTPServer, client: Clients) -> None:
    requests = serve(upstream, make_response(body='{"data": {"tokens": []}}'))
    response = client(upstream.url_for("/tickers")).graphql(QUERY, {"first": 5})
    assert response.body == b'{"data": {"tokens": []}}'
    expected = {"query": QUERY, "variables": {"first": 5}}
    assert (response.request["method"], response.request["json"]) == ("POST", expected)
    assert json.loads(requests[0].get_data()) == expected


def test_a_partial_response_is_accepted(upstream: HTTPServer, client: Clients) -> None:
    body = '{"data": {"tokens": []}, "errors": [{"message": "one subgraph is down"}]}'
    serve(upstream, make_response(body=body))
    assert client(upstream.url_for("")).graphql(QUERY, path="/tickers").body == body.encode()


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ('{"errors": [{"message": "Unknown field `symbl`"}]}', "the GraphQL query failed: “Unknown field `symbl`”"),
        (
            '{"data": null, "errors": [{"message": "a"}, "b", {"code": 7}]}',
            "the GraphQL query failed: “a; b; {'code': 7}”",
        ),
        ('{"data": null}', "the GraphQL query failed: “no error message”"),
        ('{"error": "auth error: payment required"}', "expected a GraphQL response with `data`, got “{"),
        ("[]", "expected a GraphQL response with `data`, got “[]”"),
        ("<html><p>Busy", "expected JSON, got HTML with the text “Busy”"),
    ],
)
def test_a_response_without_data_is_an_error_with_its_message(
    upstream: HTTPServer, client: Clients, body: str, detail: str
) -> None:
    serve(upstream, make_response(body=body))
    with pytest.raises(TransientError) as caught:
        client(upstream.url_for("")).graphql(QUERY, path="/tickers")
    assert detail in caught.value.detail
    assert caught.value.code == "unexpected_body"
