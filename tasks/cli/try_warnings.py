"""Find what is probably wrong with a source in one of its pages. Each warning is one sentence. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sources.contract import Source, TransientError
from sources.http.json_body import read_json
from sources.record import KEY_FIELDS
from tasks.cli.try_items import TriedPage
from tasks.drift.mapped_fields import MappedFields, mapped_fields
from tasks.drift.profile import leaves, type_of

MAX_NAMES, MAX_CHARS = 8, 60
"""Maximum number of names in a warning, and of characters of a value."""

MAX_MAPPED = 1000
"""Maximum number of items whose mapping is observed."""

LOCATION = frozenset(("file", "line", "currency"))
"""What a CSV source adds to each item."""

ROW = "row."
"""The path of the cells in an item of a CSV source, with a trailing dot."""

SIZES = frozenset(("limit", "per_page", "perpage", "page_size", "pagesize", "size", "count"))
PAGE_NUMBERS = frozenset(("page", "offset", "skip", "start", "page_number", "pagenumber"))
TOTALS = frozenset(("total", "total_count", "totalcount"))
"""Names in lower case: of parameters with the size or the number of a page, and of an upstream's total."""

NUMERIC_DATE = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(?:\d{4}|\d{2})(?!\d)", re.ASCII)
QUOTED = re.compile(r"""=?(["'“”«»]).*["'“”«»]""", re.DOTALL)


def find_warnings(source: Source, tried: TriedPage) -> Iterator[str]:
    """Yield a sentence for each thing in a page that is probably a mistake."""
    mapped = mapped_fields(source, [item.item for item in tried.items[:MAX_MAPPED] if item.fields is not None])
    yield from _shares(source, tried)
    yield from _times(tried)
    yield from _floats(tried)
    yield from _unclean_keys(tried)
    yield from _unused_fields(tried, mapped)
    yield from _ambiguous_dates(tried, mapped)
    body = _json(tried.page.body)
    yield from _uncounted(tried, body)
    yield from _page_size(tried, body)


def _shares(source: Source, tried: TriedPage) -> Iterator[str]:
    """Yield a warning if a run would be `partial`, because too few items became quotes."""
    normalized = tried.normalized
    items = normalized.fetched - normalized.left_out
    good = items - normalized.rejected
    if good and good < source.least_good * items:
        yield (
            f"A run would be `partial`: {good} of {items} items became quotes, "
            f"where `least_good` is {source.least_good:g}."
        )


def _times(tried: TriedPage) -> Iterator[str]:
    """Yield warnings about the times of the quotes: out of order, or all equal."""
    quotes = [item.quote for item in tried.items if item.quote]
    assets, instants = ({getattr(quote, name) for quote in quotes} for name in ("source_asset_id", "observed_at"))
    if len(assets) > 1 and len(instants) == 1:
        at = quotes[0].observed_at
        if at == tried.page.fetched_at:
            yield "All times are the time of the fetch, so each fetch adds new quotes; has the item no time?"
        else:
            yield f"Every quote has the same time, {at.isoformat()}; is it the time of the price?"
    by_listing = defaultdict(list)
    for quote in quotes:
        by_listing[quote.source_asset_id, quote.quote_currency].append(quote.observed_at)
    for (asset, currency), times in by_listing.items():
        falls = [(first, second) for first, second in pairwise(times) if second < first]
        rises = [(first, second) for first, second in pairwise(times) if second > first]
        if falls and rises:
            first, second = min(falls, rises, key=len)[0]
            yield (
                f"The times of {asset} in {currency} are out of order: {second.isoformat()} follows "
                f"{first.isoformat()}; is a day read as a month?"
            )
            return


def _floats(tried: TriedPage) -> Iterator[str]:
    """Yield a warning if `parse` or `normalize` returns floats, which have lost digits."""
    for function, values in (
        ("parse", (item.item for item in tried.items)),
        ("normalize", (item.fields for item in tried.items)),
    ):
        if names := _first_names(name for value in values for name in _paths_of_floats(value)):
            yield f"`{function}` returns floats in {names}, so digits are lost; decode the body with read_json."
            return


def _paths_of_floats(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, float):
        yield path or "the item"
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _paths_of_floats(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths_of_floats(inner, path)


def _unclean_keys(tried: TriedPage) -> Iterator[str]:
    """Yield a warning for the first text key of each field that needs cleaning."""
    seen: set[str] = set()
    for item in tried.items:
        for name in KEY_FIELDS:
            value = (item.fields or {}).get(name)
            if name not in seen and isinstance(value, str) and (problem := find_problem(value)):
                seen.add(name)
                yield f"{name} needs cleaning: {ascii(value)[:MAX_CHARS]} {problem} (item {item.index})."


def find_problem(key: str) -> str | None:
    """Return what is wrong with a text key, or None."""
    if key != key.strip():
        return "has white space around it"
    if any(unicodedata.category(char) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp") for char in key):
        return "has an invisible or a control character"
    if QUOTED.fullmatch(key):
        return "has quotation marks around it"
    if unicodedata.normalize("NFC", key) != key:
        return "is not in the Unicode form NFC"
    return None


def _unused_fields(tried: TriedPage, mapped: MappedFields) -> Iterator[str]:
    """Yield a warning for the fields with values that `normalize` does not read."""
    if not mapped.paths:
        return
    names = _first_names(
        path.removeprefix(ROW) if _is_row(item.item) else path
        for item in tried.items[:MAX_MAPPED]
        if item.fields is not None and isinstance(item.item, Mapping)
        for path, value in leaves(item.item)
        if type_of(value) is not None and not _is_read(path, mapped) and not (_is_row(item.item) and path in LOCATION)
    )
    if names:
        yield f"Nothing uses these fields of the items: {names}."


def _is_row(item: Mapping[str, Any]) -> bool:
    return {"file", "line", "row"} <= item.keys()


def _is_read(path: str, mapped: MappedFields) -> bool:
    """Return whether a mapping reads a field, or reads an object with it as a whole."""
    if path in mapped.paths:
        return True
    parent = path.rpartition(".")[0]
    while parent:
        if parent in mapped.paths:
            return not any(other.startswith(f"{parent}.") for other in mapped.paths)
        parent = parent.rpartition(".")[0]
    return False


def _ambiguous_dates(tried: TriedPage, mapped: MappedFields) -> Iterator[str]:
    """Yield a warning for each field with dates that fit with the day first and with the month first."""
    values: dict[str, list[str]] = defaultdict(list)
    for item in tried.items:
        if item.quote and isinstance(item.item, Mapping):
            for path, value in leaves(item.item):
                if isinstance(value, str) and (not mapped.paths or _is_read(path, mapped)):
                    values[path].append(value)
    for path, texts in values.items():
        dates = [match for text in texts if (match := NUMERIC_DATE.match(text.strip()))]
        if len(dates) < len(texts):
            continue
        pairs = [(int(date[1]), int(date[3])) for date in dates]
        unequal = [date[0] for date, (first, second) in zip(dates, pairs, strict=True) if first != second]
        if unequal and all(max(pair) <= 12 for pair in pairs):
            read = next(item.quote.observed_at for item in tried.items if item.quote)
            yield (
                f"{path.removeprefix(ROW)} fits with the day first and with the month first, such as {unequal[0]}; "
                f"the first quote has the time {read.isoformat()}."
            )


def _uncounted(tried: TriedPage, body: Any) -> Iterator[str]:
    """Yield a warning if the body's largest array has more members than `parse` yields items."""
    members, items = len(largest_array(body)), tried.normalized.fetched + tried.normalized.blank
    if members > items:
        yield (
            f"The largest array of the body has {members} members, but `parse` yields {items} items; "
            "yield LEFT_OUT for each one that is no quote."
        )


def largest_array(body: Any) -> Sequence[Any]:
    """Return the largest array of a JSON body. An array with several members is not searched for others."""
    if isinstance(body, Mapping):
        return max(map(largest_array, body.values()), key=len, default=())
    if isinstance(body, list):
        return max(body, largest_array(body[0]), key=len) if len(body) == 1 else body
    return ()


def _page_size(tried: TriedPage, body: Any) -> Iterator[str]:
    """Yield a warning if a page is short and ends the fetch, or has another size than requested."""
    request = tried.page.request
    params = {**_mapping(request.get("params")), **_mapping(request.get("json"))}
    size = _parameter(params, SIZES)
    items = len(largest_array(body)) or tried.normalized.fetched
    if not size or not items or items == size:
        return
    is_paged = _parameter(params, PAGE_NUMBERS) is not None
    if items > size or not tried.is_last:
        yield f"The page has {items} items, although {size} were requested; does the upstream ignore or limit the size?"
    elif is_paged and not _states_total(tried, body):
        yield (
            f"`fetch` ends after a page of {items} items instead of {size}, but upstreams may drop single items; "
            "go on to an empty page, or use NumberedPages."
        )


def _states_total(tried: TriedPage, body: Any) -> bool:
    headers = tried.page.response.headers if tried.page.response else {}
    names = (*headers, *_mapping(body))
    return any(str(name).lower().removeprefix("x-").replace("-", "_") in TOTALS for name in names)


def _parameter(params: Mapping[Any, Any], names: frozenset[str]) -> int | None:
    """Return the whole number in the first parameter with one of these names, or None."""
    for name, value in params.items():
        if str(name).lower().replace("-", "_") in names and str(value).isdecimal():
            return int(value)
    return None


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(body: bytes) -> Any:
    try:
        return read_json(body)
    except TransientError:
        return None


def _first_names(names: Iterable[str]) -> str:
    """Return the distinct names as a list for a sentence, shortened; empty if there are none."""
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - MAX_NAMES
    return ", ".join(distinct[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
