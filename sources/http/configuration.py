"""Recognize a changed configuration of an upstream: its key, plan and URL, and the contact in `User-Agent`."""

from __future__ import annotations

import hashlib
import hmac
import json
import os

from settings import get_settings, read_source_settings
from sources.contract import Source
from sources.http.plans import secrets_of

SALT_BYTES = 16


def configuration_settings(source: Source) -> list[str]:
    """Return the names of the variables that a refusal of the upstream may be about."""
    prefix = source.name.upper()
    secrets = sorted({name for plan in source.upstreams.values() for name in secrets_of(plan)})
    plan = [f"{prefix}_PLAN"] if len(source.upstreams) > 1 else []
    return [*(f"{prefix}_{name}" for name in secrets), *plan, f"{prefix}_URL", "USER_AGENT_CONTACT"]


def configuration_fingerprint(source: Source, salt: bytes | None = None) -> bytes:
    """Return a salted fingerprint of the configuration. It is slow to compute, so that it reveals no key."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    own = read_source_settings(source.name)
    values = [own.url, own.plan, own.api_key, own.api_secret, own.api_passphrase, get_settings().user_agent_contact]
    declared = [[name, plan.url] for name, plan in source.upstreams.items()]
    return salt + hashlib.scrypt(json.dumps([values, declared]).encode(), salt=salt, n=2**14, r=8, p=1, dklen=32)


def is_same_configuration(source: Source, fingerprint: bytes) -> bool:
    """Return whether the configuration still has this fingerprint."""
    return hmac.compare_digest(configuration_fingerprint(source, fingerprint[:SALT_BYTES]), fingerprint)
