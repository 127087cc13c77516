"""Check declarations where they are made. One sentence names the file, the member, its value and the expected value.

Types come from the annotations of the declared class, so a new member is checked without a change here. `Rule` adds
what an annotation cannot say, such as a range.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, cast, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
MAX_SHOWN_CHARS = 80

DECLARING_MODULES = ("sources.contract", "sources.pages", "sources.declarations", "sources.functions", "sources.csv")
"""The modules that define and check declarations. A declaration is made by the first frame outside of them."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""A source's name appears in URLs and, in upper case, as the prefix of its environment variables."""

YEAR = timedelta(days=366)


class DeclarationError(ValueError):
    """A declaration is wrong. The message is one sentence for its author, and begins with the file and the line."""


class Rule(NamedTuple):
    """What a member must be.

    expected: completes the sentence `<member> must be …`.
    is_typed: whether the member must also have the type of its annotation.
    """

    expected: str
    accepts: Callable[[Any], bool]
    is_typed: bool = True


def wrong(subject: str, detail: str) -> DeclarationError:
    """Return the error for a wrong declaration. subject: the declared object, such as `source 'deskfeed'`."""
    return DeclarationError(f"{_declaring_line()}: {subject}: {detail}")


def check_members(declared: Any, subject: str, rules: Mapping[str, Rule]) -> None:
    """Raise DeclarationError for the first member of a dataclass with a wrong type or against its rule."""
    for name, hint in _hints_of(cast(Hashable, type(declared))).items():
        value, rule = getattr(declared, name), rules.get(name)
        is_optional_none = value is None and NoneType in get_args(hint)
        has_type = fits(value, hint) or (rule is not None and not rule.is_typed)
        if has_type and (rule is None or is_optional_none or rule.accepts(value)):
            continue
        expected = rule.expected if rule else describe_type(hint)
        raise wrong(subject, f"{name} must be {expected}, but is {shown(value)}")


def shown(value: object) -> str:
    """Return a value as text for messages, shortened."""
    try:
        text = f"the function {value.__name__}" if callable(value) and hasattr(value, "__name__") else repr(value)
    except Exception:  # noqa: BLE001 — the value's own __repr__ can fail
        text = f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def at_line(path: str, line: int | None) -> str:
    """Return a line as `file:line`. The path of a file of this project is relative."""
    file = Path(path)
    return f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}:{line or 1}"


def _declaring_line() -> str:
    frame = sys._getframe(1)
    while frame.f_back and _declares(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return at_line(frame.f_code.co_filename, frame.f_lineno)


def _declares(module: str) -> bool:
    # dataclasses.replace and functools may stand between the author's line and ours.
    return module in ("dataclasses", "functools") or any(
        module == name or module.startswith(f"{name}.") for name in DECLARING_MODULES
    )


@cache
def _hints_of(declared: Any) -> Mapping[str, Any]:
    return get_type_hints(declared)


def is_json(value: object) -> bool:
    """Return whether a value is the same after it was stored as JSON, apart from tuples, which become lists."""
    try:
        return _is_json(value)
    except RecursionError:
        return False


def _is_json(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of an annotation. A bool is no int, and a text is no sequence of texts."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is not None and issubclass(origin, Callable):  # type: ignore[arg-type]  # abstract
        return callable(value)
    if origin is not None and issubclass(origin, Mapping):
        is_mapping = isinstance(value, Mapping)
        return is_mapping and all(
            fits(item, of) for pair in value.items() for item, of in zip(pair, arguments, strict=True)
        )
    if origin is not None and issubclass(origin, Iterable):
        is_list = isinstance(value, origin) and not isinstance(value, str | bytes | Mapping)
        return is_list and all(fits(item, arguments[0]) for item in value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


NOUNS: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    bool: "True or False",
    NoneType: "None",
    timedelta: "a timedelta, such as timedelta(minutes=5)",
    Any: "any value",
}


def describe_type(hint: Any) -> str:
    """Return an annotation in words, such as `a mapping of text to an Upstream`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if noun := NOUNS.get(hint):
        return noun
    if origin in (Union, UnionType):
        return " or ".join(map(describe_type, arguments))
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is not None and issubclass(origin, Callable):  # type: ignore[arg-type]  # abstract
        return "a function"
    if origin is not None and issubclass(origin, Mapping):
        return "a mapping of {} to {}".format(*map(describe_type, arguments))
    if origin is not None and issubclass(origin, Iterable):
        return f"a list or tuple of {describe_type(arguments[0])}"
    return f"{'an' if hint.__name__[0] in 'AEIOU' else 'a'} {hint.__name__}"


def duration(example: str, minimum: timedelta = timedelta(), maximum: timedelta | None = None) -> Rule:
    """Return the rule for a timedelta above 0, or from the minimum on, up to the maximum."""
    at_least = f"of at least {minimum}" if minimum else "of more than 0"
    at_most = f" and at most {maximum.days} days" if maximum else ""
    return Rule(
        f"a timedelta {at_least}{at_most}, such as {example}",
        lambda value: (minimum <= value if minimum else value > minimum) and (maximum is None or value <= maximum),
    )


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_valid = parts.port != 0 and bool(parts.hostname)
    except ValueError:  # no valid port or host
        return False
    has_more = parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", url)
    return is_valid and parts.scheme in ("http", "https") and not has_more


COUNT = Rule("a whole number of 1 or more, or None for no limit", lambda count: count > 0)
ONE_SECOND = timedelta(seconds=1)
RATE = {"per_minute": COUNT, "per_month": COUNT}
RETENTION = dict.fromkeys(("quotes", "bodies"), duration("timedelta(days=30), or None"))
UPSTREAM = {
    "url": Rule(
        "a URL such as https://prices.example.com/v1, with http:// or https://, and without a password, ? and #",
        _is_url,
    ),
    "key_header": Rule(
        "the name of a header, such as X-Api-Key, or None", lambda header: bool(HEADER_NAME.fullmatch(header))
    ),
    "auth": Rule(
        "a tuple of HeaderKey, QueryKey, BasicLogin, Signature and ClientCredentials, such as (QueryKey('apikey'),)",
        lambda _: True,
    ),
    "headers": Rule("a mapping of names of headers to texts, such as {'Accept': 'text/csv'}", lambda _: True),
}
HISTORY = {"span": duration("timedelta(days=90)")}
SOURCE = {
    "name": Rule(
        "a letter and up to 62 letters, digits and underscores, in lower case", lambda name: bool(NAME.fullmatch(name))
    ),
    "every": duration("timedelta(minutes=5)", ONE_SECOND, YEAR),
    "fresh": duration("timedelta(hours=1), or None", maximum=YEAR),
    "rate": Rule("a Rate, such as Rate(per_minute=60)", lambda _: True),
    "upstreams": Rule(
        'a mapping of names to Upstream, such as {"free": Upstream("https://prices.example.com/v1")}',
        lambda upstreams: all(upstreams),
    ),
    "retention": Rule("a Retention, such as Retention(quotes=timedelta(days=30))", lambda _: True),
    "least_good": Rule(
        "a share from 0 to 1, such as 0.5",
        lambda share: isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1,
        is_typed=False,
    ),
    "expects": Rule("a whole number of 1 or more, or None for any number", lambda items: items > 0),
    "history": Rule("a History, or None", lambda _: True),
    "drift": Rule(
        "a mapping of fields to evolve, discard, quarantine or freeze, such as {'price': 'freeze'}",
        lambda policies: all(policies),
    ),
}
