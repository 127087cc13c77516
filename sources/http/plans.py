"""Which of an upstream's plans the environment names: its address, and the header that carries its key."""

from __future__ import annotations

from collections.abc import Mapping

from settings import SettingsError, read_upstream
from sources.contract import Source


def upstream_address(source: Source) -> tuple[str, Mapping[str, str]]:
    """The base URL that a source's calls go to, and the header that carries its key.

    Raises SettingsError where the environment names a plan without its key, or a key that no plan takes.
    """
    given, prefix = read_upstream(source.name), source.name.upper()
    if not source.upstreams:
        return "", {}
    name = given.plan or next(
        (plan for plan, it in source.upstreams.items() if bool(it.key_header) == bool(given.api_key)), ""
    )
    plan = source.upstreams.get(name)
    if plan is None and not given.plan and not given.api_key:
        raise SettingsError(f"{prefix}_API_KEY is not set: {source.name} has no plan that needs no key.")
    if plan is None:
        plans = ", ".join(source.upstreams)
        raise SettingsError(f"{prefix}_PLAN or {prefix}_API_KEY: no plan fits them; the plans are: {plans}.")
    if bool(plan.key_header) != bool(given.api_key):
        needs = "needs a" if plan.key_header else "takes no"
        raise SettingsError(f"{prefix}_API_KEY: the plan {name!r} {needs} key.")
    headers = {plan.key_header: given.api_key} if plan.key_header and given.api_key else {}
    return (given.url or plan.url).rstrip("/"), headers
