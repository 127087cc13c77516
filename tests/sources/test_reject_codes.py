"""Test that exactly the reject codes of the service are explained."""

from __future__ import annotations

import ast

from sources.record_rules import CONTRADICTION_RULES
from sources.reject_codes import REJECT_CODES
from tests.code import calls, texts

DECLARED = {"missing", "no_price", "unknown_field"}
"""Codes that sources/record.py declares as messages of its fields."""


def raised_codes() -> set[str]:
    codes = {*DECLARED, *CONTRADICTION_RULES}
    for call in calls():
        name = ast.unparse(call.func)
        if name in ("_field_error", "Unreadable"):
            codes |= set(texts(call.args[0]))
        elif name == "_rejected_line":
            codes |= set(texts(call.args[-1]))
        elif name == "Reject" and len(call.args) == 3:
            codes |= set(texts(call.args[1]))
    return codes


def test_exactly_the_raised_reject_codes_are_explained() -> None:
    codes = raised_codes()
    assert {"not_a_number", "high_below_low", "ragged"} <= codes
    assert codes == set(REJECT_CODES)
