"""Every log event is explained, and no other."""

from __future__ import annotations

from docs.reference.generate import logged_events
from tasks.runtime.log_events import EVENTS


def test_every_event_that_is_logged_is_explained_and_no_other() -> None:
    assert set(logged_events()) == set(EVENTS)


def test_every_event_is_a_noun_and_what_happened_to_it() -> None:
    assert [event for event in EVENTS if "_" not in event] == []
