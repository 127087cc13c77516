"""List every source by name, with the overrides from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import get_args

from settings import SettingsError, get_settings, read_source_settings
from sources.contract import CatchUp, DriftPolicy, Rate, Retention, Source
from sources.http.plans import read_secrets, upstream_address

MODULES = (
    "sources.coinpaprika",
    "sources.coingecko",
    "sources.csv_history",
)

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""A source's name appears in URLs and, in upper case, as the prefix of its environment variables."""


def _load_sources() -> Mapping[str, Source]:
    """Return the sources by name; raise SettingsError with every error in the modules and the environment."""
    extra_modules = [module.strip() for module in get_settings().extra_sources.split(",") if module.strip()]
    sources, errors = [], []
    for module in (*MODULES, *extra_modules):
        try:
            sources.append(_with_overrides(_import_source(module)))
        except SettingsError as error:
            errors.append(str(error))
    if errors:
        raise SettingsError("\n".join(errors))
    names = [source.name for source in sources]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise SettingsError(
            f"Two sources have the same name: {', '.join(sorted(duplicates))}. Rename one, or remove it from "
            "EXTRA_SOURCES."
        )
    return dict(zip(names, sources, strict=True))


def _import_source(module: str) -> Source:
    """Return the `source` of a module; raise SettingsError if there is none or its declaration is invalid."""
    try:
        source = import_module(module).source
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # The module's own code runs, so anything can be raised.
        setting = "MODULES of sources/registry.py" if module in MODULES else "EXTRA_SOURCES"
        raise SettingsError(
            f"{setting}: cannot import {module}.source: {_describe(error)}. Name a module that defines `source`."
        ) from error
    if not isinstance(source, Source):
        raise SettingsError(f"{module}.source must be a sources.Source, but its type is {type(source).__name__}.")
    if not NAME.fullmatch(source.name):
        raise SettingsError(f"{module}.source: its name must match {NAME.pattern}, but is {source.name!r}.")
    if source.catch_up not in get_args(CatchUp):
        raise SettingsError(
            f"{module}.source: its catch_up must be one of {', '.join(get_args(CatchUp))}, but is {source.catch_up!r}."
        )
    if unknown_policies := sorted({*source.drift.values()} - {*get_args(DriftPolicy)}):
        raise SettingsError(
            f"{module}.source: each policy in its drift must be one of {', '.join(get_args(DriftPolicy))}, "
            f"but one is {unknown_policies[0]!r}."
        )
    return source


def _describe(error: BaseException) -> str:
    """Return the error's message, with its type if the message alone does not explain it."""
    explains_itself = isinstance(error, ImportError | AttributeError | TypeError)
    return str(error) if explains_itself else f"{type(error).__name__}: {error}"


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


SOURCES = _load_sources()
