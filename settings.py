"""Every knob, read once from the environment, validated together, with a message for each that is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, validate
from marshmallow import fields as kinds

VERSION = "0.1.0"

POSITIVE = validate.Range(min=0, min_inclusive=False, error="must be more than 0")
YEAR = 366 * 86400
# A longer time would overflow a date.
DURATION = validate.Range(
    min=0, max=YEAR, min_inclusive=False, error=f"must be more than 0 and at most {YEAR}, which is a year"
)
INTERVAL = validate.Range(min=1, max=YEAR, error=f"must be at least 1 and at most {YEAR}, which is a year")
DAY = 86_400
CENTURY = 100 * YEAR
# Given in days by mistake, it must not cost what cannot be had back.
KEPT = validate.Range(
    min=DAY, max=CENTURY, error=f"must be at least {DAY}, which is a day, and at most {CENTURY}, a century"
)
A_FEW_THREADS = validate.Range(min=1, max=6, error="must be from 1 to 6: other requests want threads, too")
A_FEW_MEGABYTES = validate.Range(min=0, max=1024, error="must be from 0 to 1024")
IN_A_HEADER = validate.Regexp(r"[!-~]+\Z", error="must be of visible ASCII characters, without spaces")
NO_PASSWORD = validate.Regexp(r"[^@]*\Z", error="must hold no user and no password: it is stored with each page")
MIN_TOKEN_LENGTH = 16
DRIFT_POLICIES = ("evolve", "discard", "quarantine", "freeze")


class SettingsError(Exception):
    """The environment does not describe a service that can run; the message lists every mistake in it."""


def _url(*schemes: str) -> validate.Validator:
    prefixes = " or ".join(f"{scheme}://" for scheme in schemes)
    return validate.Regexp(rf"({'|'.join(schemes)})://\S+\Z", error=f"must be a URL that starts with {prefixes}")


def _token(value: str) -> None:
    if len(value) < MIN_TOKEN_LENGTH:
        raise ValidationError(f"must have at least {MIN_TOKEN_LENGTH} characters; `openssl rand -hex 32` makes one")


def _knob(kind: kinds.Field[Any], about: str, *, secret: bool = False) -> Any:
    """secret: it stays out of the settings' repr, and so out of tracebacks."""
    return field(metadata={"kind": kind, "about": about}, repr=not secret)


def _text(about: str, *rules: Any, default: str | None = None, required: bool = False, secret: bool = False) -> Any:
    if required:
        return _knob(kinds.String(required=True, validate=rules), about, secret=secret)
    return _knob(kinds.String(load_default=default, validate=rules), about, secret=secret)


def _seconds(default: float | None, about: str) -> Any:
    return _knob(kinds.Float(load_default=default, validate=DURATION), about)


def _count(default: int | None, about: str) -> Any:
    return _knob(kinds.Integer(load_default=default, validate=POSITIVE), about)


class _Policies(kinds.Field[dict[str, str]]):
    """`evolve, price=freeze`: a policy for each field, and one for all others."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in str(value).split(","):
            name, named, policy = (it.strip() for it in part.rpartition("="))
            name = name if named else "*"
            if policy not in DRIFT_POLICIES or not name or name in found:
                raise ValidationError(
                    f"expected one of {', '.join(DRIFT_POLICIES)}, and where wanted others for some fields, as in "
                    f"`evolve, current_price=freeze`; got {part.strip()!r}"
                )
            found[name] = policy
        return found


@dataclass(frozen=True)
class Settings:
    """The service's configuration: one field for one environment variable of the same name in capitals."""

    database_url: str = _text("Postgres 17 or newer", _url("postgresql", "postgres"), required=True, secret=True)
    redis_url: str = _text(
        "Redis or Valkey, with AOF on and noeviction", _url("redis", "rediss"), required=True, secret=True
    )
    api_token: str | None = _text(
        "bearer token that every write needs; without one, writes are refused", _token, IN_A_HEADER, secret=True
    )
    reads_need_token: bool = _knob(kinds.Boolean(load_default=False), "whether reading needs the token too")
    csv_dir: str = _text("folder of the CSV files", default="sample_data/csv")
    extra_sources: str = _text("modules of more sources, separated by commas", default="")
    overrides: str = _text("CSV file of what is settled beforehand: which asset a listing is of", default="")
    log_format: str = _text(
        "`json`, `console`, or `auto`: console in a terminal",
        validate.OneOf(("auto", "json", "console")),
        default="auto",
    )
    log_level: str = _text(
        "least level that is logged", validate.OneOf(("DEBUG", "INFO", "WARNING", "ERROR")), default="INFO"
    )

    task_slice: float = _seconds(240, "seconds a task works on its run before it makes room for others")
    task_soft_limit: float = _seconds(420, "seconds after which Celery interrupts a task")
    task_hard_limit: float = _seconds(450, "seconds after which Celery kills a task's process")
    visibility_timeout: float = _seconds(960, "seconds after which Redis hands an unacknowledged message out again")
    lease: float = _seconds(180, "seconds a run may write to a partition without having committed a page")
    transaction_timeout: float = _seconds(45, "seconds a page's transaction may take")
    request_deadline: float = _seconds(60, "seconds one upstream request may take, its repeats included")
    sweep_every: float = _seconds(15, "seconds between two looks of the reconciler")
    retry_after_failure: float = _seconds(
        30, "seconds a run waits after its first failure; doubles with each, up to 15 minutes"
    )
    publish_gap: float = _seconds(30, "seconds before a queued run nobody took is published again; doubles with each")
    disk_full_pause: float = _seconds(900, "seconds a source is paused for that found the disk of Postgres full")
    max_attempts: int = _count(4, "starts without a committed page after which a run is given up as poisoned")
    max_waits: int = _count(10, "failures in a row that a run waits out; waits for our own limits are not counted")
    breaker_failures: int = _count(5, "requests to a source that fail in a row before it is left alone for a while")
    breaker_cooldown: float = _seconds(60, "seconds it is left alone, until one request tries whether it is back")

    run_workers: int = _count(4, "most workers at a time on one run of a source that is files")

    max_body_bytes: int = _count(64 * 1024 * 1024, "largest answer of an upstream, unpacked, in bytes")
    csv_block_bytes: int = _count(4 * 1024 * 1024, "size of a page of a CSV file, in bytes")
    csv_range_bytes: int = _count(
        32 * 1024 * 1024, "size of the ranges in which workers share a larger CSV file, in bytes"
    )
    csv_record_bytes: int = _count(256 * 1024, "largest record of a CSV file, in bytes; a larger one is refused")
    clock_skew: float = _seconds(300, "seconds an observation may lie in the future")

    statement_timeout: float = _seconds(15, "seconds one query of the API may take")
    answer_cache_mb: int = _knob(
        kinds.Integer(load_default=16, validate=A_FEW_MEGABYTES),
        "megabytes of answers that one process of the API keeps, to give them again while nothing has changed; 0: none",
    )
    exports_at_once: int = _knob(
        kinds.Integer(load_default=2, validate=A_FEW_THREADS),
        "exports that one process of the API, with 8 threads, sends at once; more are refused with 503",
    )
    export_timeout: float = _seconds(3600, "seconds one export may take; Postgres keeps its snapshot for as long")
    export_patience: float = _seconds(30, "seconds the reader of an export may take for half a megabyte of it")
    agreement_limit: float = _knob(
        kinds.Float(load_default=0.03, validate=POSITIVE),
        "the share by which a source's prices may be off from all other sources', over the assets they share",
    )
    idempotency_keys_kept: float = _seconds(86400, "seconds an Idempotency-Key is remembered")


@dataclass(frozen=True)
class UpstreamSettings:
    """What the environment says of one source, each variable with the source's name before it; unset: as declared."""

    url: str | None = _text("base URL, in place of the declared one", _url("http", "https"), NO_PASSWORD)
    plan: str | None = _text("which of the upstream's plans the key is for")
    api_key: str | None = _text("key, sent to this upstream only", IN_A_HEADER, secret=True)
    every: float | None = _knob(kinds.Float(load_default=None, validate=INTERVAL), "seconds between two scheduled runs")
    catch_up: Literal["latest", "all", "skip"] | None = _text(
        "what an outage's missed slots get: `latest`, one run for all of them; `all`, one each; `skip`, none",
        validate.OneOf(("latest", "all", "skip")),
    )
    calls_per_minute: int | None = _count(None, "most calls in a minute, over all workers")
    calls_per_month: int | None = _count(None, "most calls in a calendar month (UTC), repeats and manual runs included")
    pages: int | None = _count(None, "most pages of one snapshot, for a source that pages")
    fresh: float | None = _seconds(None, "seconds within which a good run is expected; unset: three times its `EVERY`")
    drift: Mapping[str, Literal["evolve", "discard", "quarantine", "freeze"]] | None = _knob(
        _Policies(load_default=None),
        "what follows when a field of its items changes: `evolve`, `discard`, `quarantine` or `freeze`; another for "
        "some fields, as in `evolve, current_price=freeze`",
    )
    quotes_kept: float | None = _knob(
        kinds.Float(load_default=None, validate=KEPT),
        "seconds a quote is kept after it was observed, but for the newest of each listing; unset: for ever",
    )
    bodies_kept: float | None = _knob(
        kinds.Float(load_default=None, validate=KEPT),
        "seconds a raw body is kept after it was last received; unset: for ever",
    )


@cache
def get_settings() -> Settings:
    """The settings of this process's environment, read at the first call."""
    return read_settings(os.environ)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Validate an environment; raises SettingsError naming every variable that is wrong."""
    settings = Settings(**_read(Settings, environ, prefix=""))
    contradictions = list(_contradictions(settings))
    if contradictions:
        raise SettingsError("These settings contradict each other:\n  " + "\n  ".join(contradictions))
    return settings


def read_upstream(source: str, environ: Mapping[str, str] = os.environ) -> UpstreamSettings:
    """What the environment says of a source; raises SettingsError naming every variable that is wrong."""
    return UpstreamSettings(**_read(UpstreamSettings, environ, prefix=f"{source.upper()}_"))


def secrets_in(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Every value of an environment that must never be logged, answered or stored."""
    named = {value for name, value in environ.items() if name.endswith(("_API_KEY", "API_TOKEN", "_PASSWORD"))}
    logins = {value.partition(":")[2] for name, value in environ.items() if name.endswith("_AUTH")}
    urls = {_password(value) for name, value in environ.items() if name.endswith("_URL")}
    secrets = {value.strip() for value in named | logins | urls | {unquote(url) for url in urls}}
    return tuple(sorted(secrets - {""}, key=len, reverse=True))


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:  # no URL at all
        return ""


def table(settings_class: type) -> list[tuple[str, str, str]]:
    """The rows (variable, default, meaning) of the table of settings in docs/reference/settings.md."""
    return [
        (
            knob.name.upper(),
            "" if kind.required or kind.load_default is None else str(kind.load_default),
            knob.metadata["about"],
        )
        for knob in fields(settings_class)
        for kind in (knob.metadata["kind"],)
    ]


def _read(settings_class: type, environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    schema = Schema.from_dict({knob.name: knob.metadata["kind"] for knob in fields(settings_class)})(unknown=EXCLUDE)
    # Empty means unset: compose files and .env templates write `NAME=` for what nobody filled in.
    given = {
        knob.name: value
        for knob in fields(settings_class)
        if (value := environ.get(prefix + knob.name.upper(), "").strip())
    }
    try:
        return dict(schema.load(given))
    except ValidationError as error:
        mistakes = error.normalized_messages().items()
        lines = [f"  {prefix}{name.upper()}: {' '.join(messages)}" for name, messages in mistakes]
        raise SettingsError("These settings are wrong or missing:\n" + "\n".join(lines)) from None


def _contradictions(settings: Settings) -> Iterable[str]:
    """The inequalities without which one page could be worked on twice; docs/design.md says why each."""
    # One transaction resolves the page's listings, another loads it; either may be begun anew for half of one's time.
    longest_page = settings.request_deadline + 2.5 * settings.transaction_timeout
    if settings.lease <= longest_page:
        yield (
            f"LEASE ({settings.lease:g}) must be more than "
            f"REQUEST_DEADLINE + 2.5 x TRANSACTION_TIMEOUT ({longest_page:g})"
        )
    if settings.task_soft_limit < settings.task_slice + longest_page:
        yield (
            f"TASK_SOFT_LIMIT ({settings.task_soft_limit:g}) must be at least "
            f"TASK_SLICE + REQUEST_DEADLINE + 2.5 x TRANSACTION_TIMEOUT ({settings.task_slice + longest_page:g})"
        )
    if settings.task_hard_limit <= settings.task_soft_limit:
        yield (
            f"TASK_HARD_LIMIT ({settings.task_hard_limit:g}) must be more than "
            f"TASK_SOFT_LIMIT ({settings.task_soft_limit:g})"
        )
    if settings.visibility_timeout <= 2 * settings.task_hard_limit:
        yield (
            f"VISIBILITY_TIMEOUT ({settings.visibility_timeout:g}) must be more than "
            f"2 x TASK_HARD_LIMIT ({2 * settings.task_hard_limit:g})"
        )
