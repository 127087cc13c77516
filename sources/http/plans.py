"""Choose the plan of an upstream by the environment. A plan has a base URL, and a header for the API key."""

from __future__ import annotations

from collections.abc import Mapping

from settings import SettingsError, read_source_settings
from sources.contract import Source


def upstream_address(source: Source) -> tuple[str, Mapping[str, str]]:
    """Return a source's base URL without a trailing slash, and the header with its API key.

    Return an empty URL for a source without upstreams. Raise SettingsError if the plan is unknown, if it needs a key
    and none is set, or if it takes no key and one is set.
    """
    settings = read_source_settings(source.name)
    prefix = source.name.upper()
    if not source.upstreams:
        return "", {}
    name = settings.plan or next(
        (name for name, plan in source.upstreams.items() if bool(plan.key_header) == bool(settings.api_key)), ""
    )
    plan, plans = source.upstreams.get(name), ", ".join(source.upstreams)
    if plan is None and not settings.plan and not settings.api_key:
        raise SettingsError(f"Set {prefix}_API_KEY: every plan of {source.name} needs a key. The plans are: {plans}.")
    if plan is None:
        raise SettingsError(f"{prefix}_PLAN or {prefix}_API_KEY: no plan fits them; the plans are: {plans}.")
    if bool(plan.key_header) != bool(settings.api_key):
        needs = "needs a key; set it" if plan.key_header else "takes no key; unset it, or choose another plan"
        raise SettingsError(f"{prefix}_API_KEY: the plan {name!r} {needs}.")
    headers = {plan.key_header: settings.api_key} if plan.key_header and settings.api_key else {}
    return (settings.url or plan.url).rstrip("/"), headers
