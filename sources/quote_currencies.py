"""Read the quote currencies that a source requests."""

from __future__ import annotations

from settings import read_source_settings

USD = "USD"


def quote_currencies(source: str) -> tuple[str, ...]:
    """Return the codes in `<NAME>_QUOTE_CURRENCIES`, in upper case and each once; only USD if it is not set."""
    codes = read_source_settings(source).quote_currencies or USD
    return tuple(dict.fromkeys(code.strip().upper() for code in codes.split(",")))
