"""The registry: every source there is, by name, as the environment says it is to be run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import get_args

from settings import SettingsError, get_settings, read_upstream
from sources.contract import CatchUp, DriftPolicy, Rate, Retention, Source
from sources.http.plans import upstream_address

MODULES = (
    "sources.coinpaprika",
    "sources.coingecko",
    "sources.csv_history",
)

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""A source's name stands in URLs, and in capitals before its variables."""


def _registry() -> Mapping[str, Source]:
    extra = [module.strip() for module in get_settings().extra_sources.split(",") if module.strip()]
    sources, mistakes = [], []
    for module in (*MODULES, *extra):
        try:
            sources.append(_as_configured(_declared(module)))
        except SettingsError as mistake:
            mistakes.append(str(mistake))
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    names = [source.name for source in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SettingsError(f"Two sources have the same name: {', '.join(sorted(twice))}.")
    return dict(zip(names, sources, strict=True))


def _declared(module: str) -> Source:
    try:
        source = import_module(module).source
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # whatever the module does as it is loaded
        where = "MODULES of sources/registry.py" if module in MODULES else "EXTRA_SOURCES"
        raise SettingsError(f"{where}: {module} is no module with a `source`: {_said(error)}.") from error
    if not isinstance(source, Source):
        raise SettingsError(f"{module}.source must be a sources.contract.Source, not a {type(source).__name__}.")
    if not NAME.fullmatch(source.name):
        raise SettingsError(f"{module}.source: its name must match {NAME.pattern}, it is {source.name!r}.")
    if source.catch_up not in get_args(CatchUp):
        raise SettingsError(
            f"{module}.source: its catch_up must be one of {', '.join(get_args(CatchUp))}, it is {source.catch_up!r}."
        )
    if wrong := sorted({*source.drift.values()} - {*get_args(DriftPolicy)}):
        raise SettingsError(
            f"{module}.source: its drift must be one of {', '.join(get_args(DriftPolicy))} for each field, "
            f"it is {wrong[0]!r}."
        )
    return source


def _said(error: BaseException) -> str:
    """Of the usual ones what they say, of others what they are as well."""
    usual = isinstance(error, ImportError | AttributeError | TypeError)
    return str(error) if usual else f"{type(error).__name__}: {error}"


def _as_configured(source: Source) -> Source:
    upstream = read_upstream(source.name)
    if upstream.plan or upstream.api_key:
        # A wrong one is for the start to say. A missing one is for the run: only workers need to have it.
        upstream_address(source)
    rate = Rate(
        per_minute=upstream.calls_per_minute or source.rate.per_minute,
        per_month=upstream.calls_per_month or source.rate.per_month,
    )
    retention = Retention(
        quotes=_duration(upstream.quotes_kept) or source.retention.quotes,
        bodies=_duration(upstream.bodies_kept) or source.retention.bodies,
    )
    return replace(
        source,
        rate=rate,
        every=_duration(upstream.every) or source.every,
        catch_up=upstream.catch_up or source.catch_up,
        retention=retention,
        fresh=_duration(upstream.fresh) or source.fresh,
        drift={**source.drift, **(upstream.drift or {})},
    )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


SOURCES = _registry()
