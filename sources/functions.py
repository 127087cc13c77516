"""Check the functions of a declaration: their arguments, and whether they return or yield. Pure."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

from sources.declarations import at_line, shown, wrong

NO_PAGES = ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set | ast.ListComp | ast.SetComp | ast.DictComp
"""Expressions that are no iterator of pages. `fetch` must yield pages."""


class Function(NamedTuple):
    """What a function of a declaration takes and gives.

    arguments: the names of its positional arguments.
    result:    the words for its result.
    may_yield: whether it may be a generator function.
    """

    arguments: tuple[str, ...]
    result: str
    may_yield: bool = False


SOURCE = {
    "fetch": Function(("window", "http"), "yield pages", may_yield=True),
    "parse": Function(("page",), "return or yield items", may_yield=True),
    "normalize": Function(("item",), "return a dict of fields"),
    "columns": Function(("page",), "return Columns or None"),
    "partitions": Function((), "return the names of partitions", may_yield=True),
    "format": Function(("page",), "return text"),
}
HISTORY = {
    "fetch": Function(("window", "http"), "return a Response"),
    "parse": SOURCE["parse"],
    "normalize": SOURCE["normalize"],
}


def check_functions(declared: Any, subject: str, functions: Mapping[str, Function]) -> None:
    """Raise DeclarationError for the first function that cannot be called as the pipeline does, or has no result."""
    for name, expected in functions.items():
        if (function := getattr(declared, name)) and (detail := _find_error(name, function, expected)):
            raise wrong(subject, f"{detail}{_defined_at(function)}")


def _find_error(name: str, function: Callable[..., Any], expected: Function) -> str | None:
    if not _accepts(function, len(expected.arguments)):
        signature = f"{name}({', '.join(expected.arguments)})"
        return f"{name} must be a function such as {signature}, but is {shown(function)}{inspect.signature(function)}"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return f"{name} must be a plain function, but is async"
    is_generator = inspect.isgeneratorfunction(function)
    if is_generator and not expected.may_yield:
        return f"{name} must {expected.result}, but yields; use return"
    if not isinstance(function, FunctionType):
        return None
    lost = _line_of_result(function, is_generator=is_generator, is_fetch=name == "fetch" and expected.may_yield)
    if lost and is_generator:
        return f"{name} yields and also returns a value in line {lost}, which would be lost; yield it"
    if lost:
        return f"{name} must {expected.result}, but returns none in line {lost}; replace return with yield"
    return None


def _accepts(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # A built-in function has no signature.
        return True
    return True


def _defined_at(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({at_line(code.co_filename, code.co_firstlineno)})" if code else ""


@cache
def _line_of_result(function: FunctionType, *, is_generator: bool, is_fetch: bool) -> int | None:
    """Return the line of a result that would be lost: any value of a generator, or a list that `fetch` returns."""
    for statement in _returns(function):
        value, line = statement.value, function.__code__.co_firstlineno + statement.lineno - 1
        is_none = value is None or (isinstance(value, ast.Constant) and value.value is None)
        if is_generator and not is_none:
            return line
        if is_fetch and not is_generator and (value is None or isinstance(value, NO_PAGES)):
            return line
    return None


def _returns(function: FunctionType) -> Iterator[ast.Return]:
    """Yield the function's own return statements; none if its text cannot be read."""
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return
    pending = list(ast.iter_child_nodes(definition)) if isinstance(definition, ast.FunctionDef) else []
    while pending:
        node = pending.pop(0)
        if isinstance(node, ast.Return):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            pending.extend(ast.iter_child_nodes(node))
