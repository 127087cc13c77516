"""Find the fields that a source's mapping reads, by running it on dicts that record each access."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sources.contract import Item, Reject, Source
from tasks.drift.mapping import map_item

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_values


@dataclass
class MappedFields:
    """The paths of the fields that a mapping reads. If there are none, it may read every field."""

    paths: set[str] = field(default_factory=set)

    def may_include(self, path: str) -> bool:
        return not self.paths or path in self.paths


class _RecordingDict(dict[Any, Any]):
    """A copy of an item, or of an object in it, that records each access. prefix: its path with a trailing dot."""

    def __init__(self, fields: Mapping[Any, Any], prefix: str, mapped: MappedFields):
        super().__init__(fields)
        self._prefix, self._mapped = prefix, mapped

    def _record(self, name: Any, value: Any) -> Any:
        path = f"{self._prefix}{name}"
        self._mapped.paths.add(path)
        return _RecordingDict(value, f"{path}.", self._mapped) if isinstance(value, Mapping) else value

    def __getitem__(self, name: Any) -> Any:
        return self._record(name, super().__getitem__(name))

    def __iter__(self) -> Iterator[Any]:
        # With this method, `dict(item)` and `{**item}` read the fields one by one, so that they are recorded.
        return super().__iter__()

    def __contains__(self, name: object) -> bool:
        self._record(name, None)
        return super().__contains__(name)

    def get(self, name: Any, default: Any = None) -> Any:
        return self._record(name, super().get(name, default))

    def items(self) -> dict_items[Any, Any]:
        return {name: self._record(name, value) for name, value in super().items()}.items()

    def values(self) -> dict_values[Any, Any]:
        return {name: self._record(name, value) for name, value in super().items()}.values()


def mapped_fields(source: Source, items: Iterable[Item]) -> MappedFields:
    """Return the fields that the source's mapping reads in these items."""
    mapped = MappedFields()
    for item in items:
        if isinstance(item, Mapping):
            # Normalization reports invalid items.
            with suppress(Reject):
                map_item(source, _RecordingDict(item, "", mapped))
    return mapped
