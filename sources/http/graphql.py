"""Check GraphQL responses, which report errors under status 200. Pure."""

from __future__ import annotations

from typing import Any

from sources.contract import TransientError
from sources.http.json_body import read_json
from sources.http.words import quote_words


def check_graphql(source: str, body: bytes) -> None:
    """Raise TransientError if a response has errors and no data. A response with both is partial, and is accepted."""
    answer = read_json(body)
    if not isinstance(answer, dict) or not ("data" in answer or "errors" in answer):
        raise TransientError(
            f"{source}: expected a GraphQL response with `data`, got {quote_words(body)}", code="unexpected_body"
        )
    if answer.get("data") is None:
        messages = "; ".join(map(_message, _errors(answer))) or "no error message"
        raise TransientError(
            f"{source}: the GraphQL query failed: {quote_words(messages.encode('utf-8', 'replace'))}",
            code="unexpected_body",
        )


def _errors(answer: dict[str, Any]) -> list[Any]:
    errors = answer.get("errors")
    return errors if isinstance(errors, list) else [errors] if errors else []


def _message(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else None
    return str(message if message else error)
