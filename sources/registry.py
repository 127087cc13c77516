"""List every source by name, with the overrides from the environment. A wrong source never stops the others.

A source whose module, declaration or settings are wrong is in BROKEN instead of SOURCES, with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import NamedTuple

from settings import SettingsError, get_settings, read_source_settings
from sources.contract import DeclarationError, Rate, Retention, Source
from sources.declarations import at_line
from sources.http.plans import read_secrets, upstream_address
from sources.setting_names import GLOBAL_NAMES, misspelt_settings, names_of, unknown_settings

MODULES = (
    "sources.coinpaprika",
    "sources.coingecko",
    "sources.csv_history",
)

DECLARED_NAME = re.compile(r"""\b(?:csv_source\(\s*|Source\(\s*|name\s*=\s*)["']([a-z][a-z0-9_]{0,62})["']""")
"""A source's name in the text of a module that cannot be imported."""


@dataclass(frozen=True)
class BrokenSource:
    """A source that cannot be used. Its stored data can still be read.

    module: the module that declares it. detail: what is wrong, where, and the next step.
    """

    name: str
    module: str
    detail: str


class _Broken(Exception):
    """A module declares no valid source. The message names the module."""


class Registry(NamedTuple):
    """The sources and the broken sources by name. modules: the module of each source that is not broken by its text."""

    sources: dict[str, Source]
    broken: dict[str, BrokenSource]
    modules: Mapping[str, str]


def _load_sources(environ: Mapping[str, str], names: Iterable[str]) -> Registry:
    """Return the sources of these modules. Raise SettingsError for a misspelt setting of the service."""
    if misspelt := list(misspelt_settings(GLOBAL_NAMES, environ)):
        lines = [f"  {name}: there is no such setting; did you mean {meant}?" for name, meant in misspelt]
        raise SettingsError("These settings are wrong or missing:\n" + "\n".join(lines))
    sources: dict[str, Source] = {}
    broken: dict[str, BrokenSource] = {}
    modules: dict[str, str] = {}
    for module in names:
        try:
            declared = _import_sources(module)
        except _Broken as error:
            for name in _names_in(module) or [_tail(module)]:
                _add_broken(broken, sources, name, module, str(error))
            continue
        for source in declared:
            if source.name in modules:
                detail = (
                    f"{module} declares the source {source.name!r}, but {modules[source.name]} declares it, too; "
                    "rename one, or remove its module."
                )
                _add_broken(broken, sources, _tail(module), module, detail)
            else:
                modules[source.name], sources[source.name] = module, source
    for name, module in modules.items():
        try:
            sources[name] = _with_overrides(sources[name])
            if errors := list(_wrong_names(name, module, [*modules, *broken], environ)):
                raise SettingsError("\n".join(errors))
        except (SettingsError, DeclarationError) as error:
            del sources[name]
            # In one line, since it is shown next to the name of the source.
            detail = " ".join(str(error).removeprefix("These settings are wrong or missing:").split())
            broken[name] = BrokenSource(name, module, detail)
    return Registry(sources, broken, modules)


def sources_of(module: str) -> tuple[dict[str, Source], dict[str, BrokenSource]]:
    """Return the sources and the broken sources of a module, as if it were registered last."""
    registry = _load_sources(os.environ, dict.fromkeys([*_module_names(), module]))
    own = {name: source for name, source in registry.sources.items() if registry.modules[name] == module}
    return own, {name: broken for name, broken in registry.broken.items() if broken.module == module}


def _add_broken(
    broken: dict[str, BrokenSource], sources: Mapping[str, Source], name: str, module: str, detail: str
) -> None:
    """Add a broken source, under the name of its module if another source has its name."""
    for key in (name, _tail(module), *(f"{_tail(module)}_{number}" for number in range(2, 100))):
        if key not in broken and key not in sources:
            broken[key] = BrokenSource(key, module, detail)
            return


def _module_names() -> list[str]:
    extra_modules = [module.strip() for module in get_settings().extra_sources.split(",")]
    return list(dict.fromkeys([*MODULES, *filter(None, extra_modules)]))


def _tail(module: str) -> str:
    """Return a name for a broken source whose own name is unknown: the last part of its module."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", module.removesuffix(".py").rpartition(".")[2]).strip("_") or "module"


def _names_in(module: str) -> list[str]:
    """Return the names of the sources that a module's text seems to declare."""
    return list(dict.fromkeys(DECLARED_NAME.findall(_text_of(module))))


def _text_of(module: str) -> str:
    """Return the text of a module without importing it; empty if there is none."""
    try:
        spec = find_spec(module)
        return Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    except (Exception, SystemExit):  # noqa: BLE001 — finding a module runs the code of its package
        return ""


def _import_sources(module: str) -> list[Source]:
    """Return the `source` or the `sources` of a module. Raise _Broken if there are none, or one is invalid."""
    try:
        imported = import_module(module)
    except DeclarationError as error:
        raise _Broken(f"{module}: {error}.") from error
    except (Exception, SystemExit) as error:  # The module's own code runs, so anything can be raised.
        raise _Broken(f"{_setting(module)}: cannot import {module}: {_describe(error, module)}.") from error
    return _declared_sources(module, imported)


def _declared_sources(module: str, imported: ModuleType) -> list[Source]:
    has_one, has_several = hasattr(imported, "source"), hasattr(imported, "sources")
    if has_one == has_several:
        which = "defines both `source` and `sources`" if has_one else "defines neither `source` nor `sources`"
        close = get_close_matches("source", [name for name in vars(imported) if not name.startswith("_")], n=1)
        hint = f"; did you mean to name {close[0]!r} `source`?" if close and not has_one else ""
        raise _Broken(
            f"{_setting(module)}: {module} {which}; define `source = Source(…)`, or `sources = [Source(…), …]`{hint}"
        )
    if has_one:
        declared, member = [imported.source], f"{module}.source"
    else:
        declared, member = imported.sources, f"each item of {module}.sources"
    if not isinstance(declared, list | tuple) or not declared:
        raise _Broken(f"{module}.sources must be a list of at least one Source, but is {type(declared).__name__}.")
    for source in declared:
        if not isinstance(source, Source):
            raise _Broken(f"{member} must be a sources.Source, but its type is {type(source).__name__}.")
    return list(declared)


def _setting(module: str) -> str:
    return "MODULES of sources/registry.py" if module in MODULES else "EXTRA_SOURCES"


def _describe(error: BaseException, module: str) -> str:
    """Return the error's message, type, file and line."""
    explains_itself = isinstance(error, ModuleNotFoundError)
    text = str(error) if explains_itself else f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({at_line(error.filename, error.lineno)})"
    own = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    lines = [entry for entry in own if not entry[0].startswith("<") and not entry[0].endswith("importlib/__init__.py")]
    return f"{text} ({at_line(*lines[-1])})" if lines and lines[-1][0] != __file__ else text


def _wrong_names(name: str, module: str, sources: list[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield an error for each variable that looks like a setting of the source but is none."""
    yield from unknown_settings(name, sources, environ, _text_of(module))
    others = set[str]().union(*(names_of(other) for other in sources if other != name))
    for variable, meant in misspelt_settings(names_of(name), environ):
        if variable not in others and not variable.startswith(f"{name.upper()}_"):
            yield f"{variable}: there is no such setting; did you mean {meant}?"


def _with_overrides(source: Source) -> Source:
    """Return the source with the overrides from the environment."""
    settings = read_source_settings(source.name)
    if settings.plan or read_secrets(source.name):
        # Reject a wrong plan or key at start-up. A missing key makes only the runs fail, since only workers need it.
        upstream_address(source)
    rate = Rate(
        per_minute=settings.calls_per_minute or source.rate.per_minute,
        per_month=settings.calls_per_month or source.rate.per_month,
    )
    retention = Retention(
        quotes=_duration(settings.quotes_kept) or source.retention.quotes,
        bodies=_duration(settings.bodies_kept) or source.retention.bodies,
    )
    return replace(
        source,
        rate=rate,
        every=_duration(settings.every) or source.every,
        catch_up=settings.catch_up or source.catch_up,
        retention=retention,
        fresh=_duration(settings.fresh) or source.fresh,
        drift={**source.drift, **(settings.drift or {})},
    )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


SOURCES, BROKEN, _ = _load_sources(os.environ, _module_names())
