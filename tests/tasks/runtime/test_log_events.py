"""Test that the documentation explains exactly the log events of the service."""

from __future__ import annotations

from docs.reference.generate import logged_events
from tasks.runtime.log_events import EVENTS


def test_exactly_the_logged_events_are_explained() -> None:
    assert set(logged_events()) == set(EVENTS)


def test_every_event_name_has_at_least_two_words() -> None:
    assert [event for event in EVENTS if "_" not in event] == []
