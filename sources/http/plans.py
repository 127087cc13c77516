"""Choose the plan of an upstream by the environment: a base URL, and the secrets that its requests carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from settings import SettingsError, read_source_settings
from sources.auth import SECRET_NAMES, Auth, HeaderKey, SecretName
from sources.contract import Source, Upstream
from sources.http.authentication import Credentials


@dataclass(frozen=True)
class Address:
    """The chosen plan: its name, its base URL without a trailing slash, and its credentials.

    The URL is empty for a source without upstreams.
    """

    plan: str = ""
    url: str = ""
    credentials: Credentials = Credentials()  # noqa: RUF009 — immutable


def upstream_address(source: Source) -> Address:
    """Return the address of a source's upstream.

    Raise SettingsError if the plan is unknown, if it needs a secret that is not set, or if one is set that it does not
    take.
    """
    if not source.upstreams:
        return Address()
    settings, secrets = read_source_settings(source.name), read_secrets(source.name)
    name = settings.plan or _fitting_plan(source, frozenset(secrets))
    plan = _existing_plan(source, name, settings.plan, secrets)
    _check_secrets(source.name.upper(), name, secrets_of(plan), secrets)
    credentials = Credentials(declarations_of(plan), plan.headers, secrets)
    return Address(name, (settings.url or plan.url).rstrip("/"), credentials)


def read_secrets(source: str) -> Mapping[SecretName, str]:
    """Return the secrets that the environment sets for a source."""
    settings = read_source_settings(source)
    values = (settings.api_key, settings.api_secret, settings.api_passphrase)
    return {name: value for name, value in zip(SECRET_NAMES, values, strict=True) if value}


def declarations_of(plan: Upstream) -> tuple[Auth, ...]:
    """Return the places of a plan's secrets, with its `key_header` first."""
    return ((HeaderKey(plan.key_header),) if plan.key_header else ()) + plan.auth


def secrets_of(plan: Upstream) -> frozenset[SecretName]:
    """Return the names of the secrets that a plan needs."""
    return frozenset[SecretName]().union(*(part.secrets for part in declarations_of(plan)))


def _fitting_plan(source: Source, available: frozenset[SecretName]) -> str:
    """Return the first plan that takes exactly these secrets. If none does, return the first that takes any or none."""
    needs = {name: secrets_of(plan) for name, plan in source.upstreams.items()}
    exact = (name for name, secrets in needs.items() if secrets == available)
    similar = (name for name, secrets in needs.items() if bool(secrets) == bool(available))
    return next(exact, None) or next(similar, "")


def _existing_plan(source: Source, name: str, chosen: str | None, secrets: Mapping[SecretName, str]) -> Upstream:
    prefix, plans = source.name.upper(), ", ".join(source.upstreams)
    if plan := source.upstreams.get(name):
        return plan
    if not chosen and not secrets:
        raise SettingsError(f"Set {prefix}_API_KEY: every plan of {source.name} needs a key. The plans are: {plans}.")
    raise SettingsError(f"{prefix}_PLAN or {prefix}_API_KEY: no plan fits them; the plans are: {plans}.")


def _check_secrets(prefix: str, plan: str, needed: frozenset[SecretName], available: Mapping[SecretName, str]) -> None:
    for name in SECRET_NAMES:
        word = name.removeprefix("API_").lower()
        if name in needed and name not in available:
            raise SettingsError(f"{prefix}_{name}: the plan {plan!r} needs a {word}; set it.")
        if name in available and name not in needed:
            raise SettingsError(
                f"{prefix}_{name}: the plan {plan!r} takes no {word}; unset it, or choose another plan."
            )
