"""Read every setting from the environment once, validate all of them, and report every invalid one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, validate
from marshmallow import fields as kinds

VERSION = "0.1.0"

POSITIVE = validate.Range(min=0, min_inclusive=False, error="must be more than 0")
YEAR = 366 * 86400
# A longer duration would overflow a date.
DURATION = validate.Range(
    min=0, max=YEAR, min_inclusive=False, error=f"must be more than 0 and at most {YEAR}, which is a year"
)
INTERVAL = validate.Range(min=1, max=YEAR, error=f"must be at least 1 and at most {YEAR}, which is a year")
DAY = 86_400
CENTURY = 100 * YEAR
# The minimum catches a value in days, which would delete data that cannot be restored.
RETENTION = validate.Range(
    min=DAY, max=CENTURY, error=f"must be at least {DAY}, which is a day, and at most {CENTURY}, a century"
)
EXPORT_THREADS = validate.Range(min=1, max=6, error="must be from 1 to 6, since other requests need threads too")
CACHE_MEGABYTES = validate.Range(min=0, max=1024, error="must be from 0 to 1024")
HEADER_VALUE = validate.Regexp(r"[!-~]+\Z", error="must consist of visible ASCII characters, without spaces")
NO_PASSWORD = validate.Regexp(
    r"[^@]*\Z", error="must contain no user and no password, since it is stored with each page"
)
NO_QUERY = validate.Regexp(r"[^?#]*\Z", error="must contain no `?` and no `#`, since paths are appended to it")
# The address of a person or a page, in a header: visible ASCII without parentheses, which delimit it there.
CONTACT = validate.Regexp(
    r"(https?://[!-'*-?A-~]+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+)\Z",
    error="must be an e-mail address, or a URL that starts with http:// or https:// and contains no user",
)
MIN_TOKEN_CHARS = 16
SECRET_ENDINGS = ("_API_KEY", "_API_SECRET", "_API_PASSPHRASE", "API_TOKEN", "_PASSWORD")
"""The endings of variables whose values are secrets."""
# sources/contract.py explains these policies.
DriftPolicy = Literal["evolve", "discard", "quarantine", "freeze"]
CatchUp = Literal["latest", "all", "skip"]

CURRENCIES = validate.Regexp(
    r"[A-Za-z0-9]{2,12}(,\s*[A-Za-z0-9]{2,12})*\Z", error="must be currency codes, separated by commas, such as USD,EUR"
)
OLD_NAMES = {"RESPONSE_CACHE_MB": "ANSWER_CACHE_MB"}
"""Renamed variables, with the old name that is still accepted."""


class SettingsError(Exception):
    """The environment is not valid. The message lists every invalid or missing variable."""


def _url(*schemes: str) -> validate.Validator:
    prefixes = " or ".join(f"{scheme}://" for scheme in schemes)
    return validate.Regexp(rf"({'|'.join(schemes)})://\S+\Z", error=f"must be a URL that starts with {prefixes}")


def _token(value: str) -> None:
    if len(value) < MIN_TOKEN_CHARS:
        raise ValidationError(f"must have at least {MIN_TOKEN_CHARS} characters; `openssl rand -hex 32` generates one")


def _setting(kind: kinds.Field[Any], about: str, *, secret: bool = False) -> Any:
    """Return the dataclass field of a setting. The repr hides a secret, and therefore tracebacks do too."""
    return field(metadata={"kind": kind, "about": about}, repr=not secret)


def _text(about: str, *rules: Any, default: str | None = None, required: bool = False, secret: bool = False) -> Any:
    if required:
        return _setting(kinds.String(required=True, validate=rules), about, secret=secret)
    return _setting(kinds.String(load_default=default, validate=rules), about, secret=secret)


def _seconds(default: float | None, about: str) -> Any:
    return _setting(kinds.Float(load_default=default, validate=DURATION), about)


def _count(default: int | None, about: str) -> Any:
    return _setting(kinds.Integer(load_default=default, validate=POSITIVE), about)


class _Policies(kinds.Field[dict[str, str]]):
    """Parse drift policies such as `evolve, price=freeze`: one for all fields, and overrides for single fields."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> dict[str, str]:
        policies: dict[str, str] = {}
        for part in str(value).split(","):
            name, equals, policy = (word.strip() for word in part.rpartition("="))
            name = name if equals else "*"
            if policy not in get_args(DriftPolicy) or not name or name in policies:
                raise ValidationError(
                    f"expected one of {', '.join(get_args(DriftPolicy))}, and optionally `field=policy` for single "
                    f"fields, such as `evolve, current_price=freeze`; got {part.strip()!r}"
                )
            policies[name] = policy
        return policies


@dataclass(frozen=True)
class Settings:
    """The settings of the service. Each field comes from the environment variable with its name in upper case."""

    database_url: str = _text("Postgres 17 or newer", _url("postgresql", "postgres"), required=True, secret=True)
    redis_url: str = _text(
        "Redis or Valkey, with append-only file and `noeviction`", _url("redis", "rediss"), required=True, secret=True
    )
    api_token: str | None = _text(
        "bearer token for writes; if unset, every write is rejected", _token, HEADER_VALUE, secret=True
    )
    reads_need_token: bool = _setting(kinds.Boolean(load_default=False), "whether reads also need the token")
    csv_dir: str = _text("folder with the CSV files", default="sample_data/csv")
    extra_sources: str = _text("modules of additional sources, separated by commas", default="")
    overrides: str = _text("CSV file that assigns listings to assets", default="")
    user_agent_contact: str | None = _text(
        "your e-mail address or website, sent to upstreams in `User-Agent`; some refuse requests without it", CONTACT
    )
    log_format: str = _text(
        "`json`, `console` or `auto`, which means `console` in a terminal and `json` elsewhere",
        validate.OneOf(("auto", "json", "console")),
        default="auto",
    )
    log_level: str = _text("minimum log level", validate.OneOf(("DEBUG", "INFO", "WARNING", "ERROR")), default="INFO")

    task_slice: float = _seconds(240, "seconds a task works on a run before it yields to other runs")
    task_soft_limit: float = _seconds(420, "seconds after which Celery interrupts a task")
    task_hard_limit: float = _seconds(450, "seconds after which Celery kills a task's process")
    visibility_timeout: float = _seconds(960, "seconds after which Redis redelivers an unacknowledged message")
    lease: float = _seconds(180, "seconds until a lease on a partition expires if no page is committed")
    transaction_timeout: float = _seconds(45, "maximum seconds for a page's transaction")
    request_deadline: float = _seconds(60, "maximum seconds for one upstream request, including its retries")
    sweep_every: float = _seconds(15, "seconds between sweeps of the reconciler")
    retry_after_failure: float = _seconds(
        30, "seconds a run waits after its first failure; doubles with each further failure, up to 15 minutes"
    )
    publish_gap: float = _seconds(
        30,
        "seconds until a queued run that no worker has started is published again; "
        "while the queue has messages, doubles each time, up to 256 times this value",
    )
    disk_full_pause: float = _seconds(900, "seconds to pause a source after Postgres runs out of disk space")
    max_attempts: int = _count(4, "starts without a committed page until a run fails as `poisoned`")
    max_waits: int = _count(
        10,
        "waits after failures without a committed page until a run fails; "
        "waits for the configured rate limits do not count",
    )
    breaker_failures: int = _count(5, "consecutive failed requests to a source that open its circuit breaker")
    breaker_cooldown: float = _seconds(60, "seconds an open circuit breaker waits before it allows one trial request")

    run_workers: int = _count(4, "maximum workers sharing one run of a file-based source")

    max_body_bytes: int = _count(
        64 * 1024 * 1024, "maximum size of an upstream's response after decompression, in bytes"
    )
    max_body_values: int = _count(
        1_000_000, "maximum number of values in an upstream's response: members of its lists and objects"
    )
    max_page_items: int = _count(100_000, "maximum number of items in one response of an upstream")
    csv_block_bytes: int = _count(4 * 1024 * 1024, "size of one page of a CSV file, in bytes")
    csv_block_records: int = _count(50_000, "maximum number of records in one page of a CSV file")
    csv_range_bytes: int = _count(
        32 * 1024 * 1024, "size of the ranges that larger CSV files are split into for several workers, in bytes"
    )
    csv_record_bytes: int = _count(256 * 1024, "maximum size of a CSV record, in bytes; a larger one becomes a reject")
    csv_first_records: int = _count(
        1000, "number of records at the start of a CSV file; if all are rejected, the file is not read further"
    )
    clock_skew: float = _seconds(300, "maximum seconds that an observation time may be in the future")

    statement_timeout: float = _seconds(15, "maximum seconds for one query of the API")
    response_cache_mb: int = _setting(
        kinds.Integer(load_default=16, validate=CACHE_MEGABYTES),
        "maximum megabytes of responses that one API process caches; 0 turns the cache off",
    )
    exports_at_once: int = _setting(
        kinds.Integer(load_default=2, validate=EXPORT_THREADS),
        "maximum concurrent exports of one API process, which has 8 threads; further exports get a 503",
    )
    export_timeout: float = _seconds(3600, "maximum seconds for one export; Postgres keeps its snapshot until it ends")
    export_patience: float = _seconds(30, "maximum seconds that an export's client may take to receive half a megabyte")
    agreement_limit: float = _setting(
        kinds.Float(load_default=0.03, validate=POSITIVE),
        "maximum deviation of a price from the prices of other sources, as a share; a larger deviation is reported",
    )
    idempotency_keys_kept: float = _seconds(86400, "seconds an `Idempotency-Key` is stored")


@dataclass(frozen=True)
class SourceSettings:
    """The settings of one source. Variables start with the source's name, and override the values it declares."""

    url: str | None = _text(
        "base URL; overrides the URL that the source declares", _url("http", "https"), NO_PASSWORD, NO_QUERY
    )
    plan: str | None = _text("the upstream plan that the key belongs to")
    api_key: str | None = _text("API key, sent to this upstream only", HEADER_VALUE, secret=True)
    every: float | None = _setting(
        kinds.Float(load_default=None, validate=INTERVAL), "seconds between two scheduled runs"
    )
    catch_up: CatchUp | None = _text(  # noqa: RUF009 — the type is immutable
        "which of the slots missed in an outage or a pause get a run: the `latest`, `all`, or none (`skip`)",
        validate.OneOf(get_args(CatchUp)),
    )
    calls_per_minute: int | None = _count(None, "maximum calls per minute, for all workers together")
    calls_per_month: int | None = _count(
        None, "maximum calls per calendar month (UTC), including retries and manual runs"
    )
    quote_currencies: str | None = _text(
        "quote currencies to request, such as `USD,EUR`, for CoinPaprika and CoinGecko; unset: `USD`", CURRENCIES
    )
    pages: int | None = _count(None, "maximum pages of one run, for a source that sends several pages")
    fresh: float | None = _seconds(
        None, "seconds within which a successful run is expected; unset: three times `EVERY`"
    )
    drift: Mapping[str, DriftPolicy] | None = _setting(
        _Policies(load_default=None),
        "drift policy for all fields: `evolve`, `discard`, `quarantine` or `freeze`; "
        "add `field=policy` to override single fields",
    )
    quotes_kept: float | None = _setting(
        kinds.Float(load_default=None, validate=RETENTION),
        "seconds a quote is kept after its observation; the newest of each listing is always kept; unset: forever",
    )
    bodies_kept: float | None = _setting(
        kinds.Float(load_default=None, validate=RETENTION),
        "seconds a raw body is kept after it was last received; unset: forever",
    )
    api_secret: str | None = _text(
        "secret that belongs to the API key, for an upstream with signatures, logins or OAuth",
        HEADER_VALUE,
        secret=True,
    )
    api_passphrase: str | None = _text(
        "passphrase of the API key, for an upstream that needs one", HEADER_VALUE, secret=True
    )


@cache
def get_settings() -> Settings:
    """Return the settings of this process, read from its environment on the first call."""
    return read_settings(os.environ)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the validated settings. Raise SettingsError with every invalid variable."""
    settings = Settings(**_read(Settings, environ, prefix=""))
    contradictions = list(_contradictions(settings))
    if contradictions:
        raise SettingsError("These settings contradict each other:\n  " + "\n  ".join(contradictions))
    return settings


def read_source_settings(source: str, environ: Mapping[str, str] = os.environ) -> SourceSettings:
    """Return the validated settings of a source. Raise SettingsError with every invalid variable."""
    return SourceSettings(**_read(SourceSettings, environ, prefix=f"{source.upper()}_"))


def secrets_in(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return every value that must never be logged, stored or sent to a client, longest first."""
    values = {value for name, value in environ.items() if name.endswith(SECRET_ENDINGS)}
    logins = {value.partition(":")[2] for name, value in environ.items() if name.endswith("_AUTH")}
    urls = {_password(value) for name, value in environ.items() if name.upper().endswith(("_URL", "_PROXY"))}
    secrets = {value.strip() for value in values | logins | urls | {unquote(url) for url in urls}}
    return tuple(sorted(secrets - {""}, key=len, reverse=True))


def _password(url: str) -> str:
    """Return the password in a URL. A user without a password is a token in a web address, and a name elsewhere."""
    try:
        parts = urlsplit(url.strip())
        return parts.password or (parts.username if parts.scheme in ("http", "https") else "") or ""
    except ValueError:  # not a URL
        return ""


def table(settings_class: type) -> list[tuple[str, str, str]]:
    """Return rows (variable, default, meaning) for the tables of docs/reference/settings.md."""
    return [
        (
            setting.name.upper(),
            "" if kind.required or kind.load_default is None else str(kind.load_default),
            setting.metadata["about"],
        )
        for setting in fields(settings_class)
        for kind in (setting.metadata["kind"],)
    ]


def _read(settings_class: type, environ: Mapping[str, str], prefix: str) -> dict[str, Any]:
    settings = fields(settings_class)
    schema = Schema.from_dict({setting.name: setting.metadata["kind"] for setting in settings})(unknown=EXCLUDE)
    # Empty means unset: compose files and .env templates contain `NAME=` for variables without a value.
    variables = {setting.name: _variable(environ, prefix + setting.name.upper()) for setting in settings}
    values = {name: value for name, variable in variables.items() if (value := environ.get(variable, "").strip())}
    try:
        return dict(schema.load(values))
    except ValidationError as error:
        errors = error.normalized_messages().items()
        lines = [f"  {variables[name]}: {' '.join(messages)}" for name, messages in errors]
        raise SettingsError("These settings are wrong or missing:\n" + "\n".join(lines)) from None


def _variable(environ: Mapping[str, str], name: str) -> str:
    """Return the variable to read for a setting: its old name if only that has a value, otherwise its name."""
    old_name = OLD_NAMES.get(name, "")
    return old_name if environ.get(old_name, "").strip() and not environ.get(name, "").strip() else name


def _contradictions(settings: Settings) -> Iterable[str]:
    """Yield a message for each rule about the time limits that the settings break.

    docs/explanation/runs-and-leases.md#time-limits-that-must-fit-together explains the rules.
    """
    # After the fetch, all transactions of a page share one deadline (tasks/pipeline/prepare.py). Retries start within
    # half a timeout, and the last two transactions within 1.5. The load then ends within 2.5 timeouts.
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
