"""Describe an error in a source's own functions: its text, and the file and line of the source's module. Pure."""

from __future__ import annotations

import inspect
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from traceback import walk_tb
from typing import Any

from sources.contract import DeclarationError, Source
from sources.declarations import at_line

KASPARRO = ("app", "tasks", "store", "settings", "sources.csv", "sources.http")
"""Packages whose lines are never those of a source's author."""

OWN_MODULES = frozenset(
    f"sources.{name}"
    for name in (
        "auth",
        "contract",
        "declarations",
        "errors",
        "faults",
        "functions",
        "key_text",
        "pages",
        "paging",
        "quote_currencies",
        "record",
        "record_columns",
        "record_rules",
        "redaction",
        "registry",
        "reject_codes",
        "setting_names",
    )
)
"""The modules of `sources` that declare no source."""

LIBRARIES = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
MAX_ERROR_CHARS = 300


class WrongResult(TypeError):
    """A function of a source returned what the contract does not allow.

    function: the name of the function in the declaration. detail: what is expected, and what it returned.
    """

    def __init__(self, function: str, detail: str):
        super().__init__(f"{function} {detail}")
        self.function = function


def author_line(error: BaseException, source: Source) -> str | None:
    """Return the last line of the source's author in an error's traceback, as `file:line`; None if there is none."""
    own_files = {code.co_filename for function in _functions(source) if (code := _code(function))}
    lines = [
        (frame.f_code.co_filename, line)
        for frame, line in walk_tb(error.__traceback__)
        if not _is_kasparros(frame.f_globals.get("__name__", ""))
        and (frame.f_code.co_filename in own_files or not frame.f_code.co_filename.startswith((*LIBRARIES, "<")))
    ]
    if lines:
        return at_line(*lines[-1])
    return definition_line(getattr(source, error.function)) if isinstance(error, WrongResult) else None


def definition_line(function: Callable[..., Any]) -> str | None:
    """Return where a function is defined, as `file:line`; None if it is not written in Python."""
    code = _code(function)
    return at_line(code.co_filename, code.co_firstlineno) if code else None


def name_type(value: object) -> str:
    """Return the type of a wrong result in words, such as `a list`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def describe_error(error: BaseException) -> str:
    """Return an error's type and text, shortened. A declaration error explains itself."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 — an error's own __str__ can fail
        text = ""
    text = text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}…"
    if isinstance(error, DeclarationError | WrongResult):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def name_hint(error: BaseException, item: Any) -> str:
    """Return `; did you mean …?` for a KeyError of a name that resembles one in the item; otherwise an empty text."""
    if not isinstance(error, KeyError) or not error.args or not isinstance(error.args[0], str):
        return ""
    names = tuple(_names(item))
    return "" if error.args[0] in names else did_you_mean(error.args[0], names)


@lru_cache(maxsize=1024)
def did_you_mean(name: str, names: tuple[str, ...]) -> str:
    """Return `; did you mean …?` for the name that resembles it most, or an empty text."""
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _names(item: Any) -> Iterable[str]:
    """Return the names of an item and of the objects directly in it."""
    if not isinstance(item, Mapping):
        return ()
    inner = (value for value in item.values() if isinstance(value, Mapping))
    return (name for names in (item, *inner) for name in names if isinstance(name, str))


def _functions(source: Source) -> tuple[Callable[..., Any], ...]:
    return (source.fetch, source.parse, source.normalize)


def _code(function: Callable[..., Any]) -> Any:
    return getattr(inspect.unwrap(function), "__code__", None)


def _is_kasparros(module: str) -> bool:
    return module in OWN_MODULES or any(module == name or module.startswith(f"{name}.") for name in KASPARRO)
