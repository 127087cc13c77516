"""Find environment variables that look like a setting of ours but are none. Innocent variables are left alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches

from rapidfuzz.distance import OSA

from settings import OLD_NAMES, Settings, SourceSettings

GLOBAL_NAMES = frozenset({*(setting.name.upper() for setting in fields(Settings)), *OLD_NAMES.values()})
SUFFIXES = tuple(setting.name.upper() for setting in fields(SourceSettings))

INJECTED = re.compile(r"SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?|(TCP|UDP)_(ADDR|PORT)|PROXY|VERSION")
"""Suffixes of variables that Kubernetes, Docker and images set for a service with the name of a source."""

MIN_CHARS = 8
"""A shorter name, such as LEASE, resembles too many words."""


def names_of(source: str) -> set[str]:
    """Return the variables of a source."""
    return {f"{source.upper()}_{suffix}" for suffix in SUFFIXES}


def unknown_settings(source: str, sources: Iterable[str], environ: Mapping[str, str], text: str) -> Iterator[str]:
    """Yield an error for each set variable with the source's prefix that is no setting.

    sources: the names of all sources. text: the text of the source's module, which may read variables of its own.
    """
    prefix = f"{source.upper()}_"
    known = GLOBAL_NAMES.union(*map(names_of, sources))
    longer = tuple(f"{other.upper()}_" for other in sources if other.upper().startswith(prefix))
    for name, value in sorted(environ.items()):
        suffix = name.removeprefix(prefix)
        if suffix == name or not value.strip() or name in known or name.startswith(longer):
            continue
        if name not in text and not INJECTED.fullmatch(suffix):
            close = get_close_matches(suffix, SUFFIXES, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(SUFFIXES)}."
            yield f"{name} is set, but a source has no setting {suffix}; {hint}"


def misspelt_settings(names: Iterable[str], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each set variable that is one edit away from a known name that is not set, with that name.

    names: the known names to compare with.
    """
    unset = [name for name in sorted(names) if len(name) >= MIN_CHARS and "_" in name and not _is_set(name, environ)]
    known = {*names, *GLOBAL_NAMES}
    for variable in sorted(environ):
        if variable in known or not _is_set(variable, environ):
            continue
        if meant := next((name for name in unset if is_one_edit(variable, name)), None):
            yield variable, meant


def _is_set(name: str, environ: Mapping[str, str]) -> bool:
    return bool(environ.get(name, "").strip())


def is_one_edit(first: str, second: str) -> bool:
    """Return whether one letter was added, left out, replaced, or swapped with its neighbor. Underscores must agree."""
    return first.count("_") == second.count("_") and OSA.distance(first, second, score_cutoff=1) == 1
