"""Which fields of an item its source's mapping asks for: seen by having it map items that take note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sources.contract import Item, Reject, Source
from tasks.drift.mapping import map_item

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_values


@dataclass
class MappedFields:
    """The paths that were asked for. Where none was, the mapping takes items as they are: it may use any."""

    paths: set[str] = field(default_factory=set)

    def has(self, path: str) -> bool:
        return not self.paths or path in self.paths


class _Noting(dict[Any, Any]):
    """An object of an item, and the objects in it."""

    def __init__(self, it: Mapping[Any, Any], above: str, used: MappedFields):
        super().__init__(it)
        self._above, self._used = above, used

    def _note(self, name: Any, value: Any) -> Any:
        path = f"{self._above}{name}"
        self._used.paths.add(path)
        return _Noting(value, f"{path}.", self._used) if isinstance(value, Mapping) else value

    def __getitem__(self, name: Any) -> Any:
        return self._note(name, super().__getitem__(name))

    def __contains__(self, name: object) -> bool:
        self._note(name, None)
        return super().__contains__(name)

    def get(self, name: Any, default: Any = None) -> Any:
        return self._note(name, super().get(name, default))

    def items(self) -> dict_items[Any, Any]:
        return {name: self._note(name, value) for name, value in super().items()}.items()

    def values(self) -> dict_values[Any, Any]:
        return {name: self._note(name, value) for name, value in super().items()}.values()


def mapped_fields(source: Source, items: Iterable[Item]) -> MappedFields:
    used = MappedFields()
    for item in items:
        if isinstance(item, Mapping):
            # What is wrong with an item, normalizing it says.
            with suppress(Reject):
                map_item(source, _Noting(item, "", used))
    return used
