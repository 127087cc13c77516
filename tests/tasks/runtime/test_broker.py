"""Test that checks of Redis return quickly and never raise an error."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from dataclasses import replace

import pytest
from redis import Redis

from settings import Settings, get_settings
from tasks.runtime.broker import (
    broker_accepts_writes,
    heartbeat_timeout,
    ingest_queue_is_empty,
    read_value,
    write_value,
)


def test_a_healthy_redis_accepts_writes(broker: Redis) -> None:
    assert broker_accepts_writes()


def test_a_full_redis_accepts_no_writes_but_reports_its_queue(broker: Redis) -> None:
    broker.config_set("maxmemory", 1)
    try:
        assert not broker_accepts_writes()
        assert ingest_queue_is_empty()
    finally:
        broker.config_set("maxmemory", 0)


def test_a_stored_value_is_read_again_and_an_unknown_one_is_none(broker: Redis) -> None:
    assert read_value("kasparro:test") is None
    assert write_value("kasparro:test", "é")
    assert read_value("kasparro:test") == "é"


def test_a_queue_with_a_message_is_not_empty(broker: Redis) -> None:
    broker.rpush("ingest", "a message")
    assert not ingest_queue_is_empty()


def test_an_unresponsive_redis_counts_as_full_and_busy_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:  # Accepts connections, but never responds.
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{mute.getsockname()[1]}/0")
        get_settings.cache_clear()
        start = time.monotonic()
        try:
            assert not broker_accepts_writes()
            assert not ingest_queue_is_empty()
        finally:
            monkeypatch.undo()
            get_settings.cache_clear()
    assert time.monotonic() - start < 4


def test_the_heartbeat_timeout_is_three_sweeps_plus_a_grace_period(settings: Settings) -> None:
    assert heartbeat_timeout(replace(settings, sweep_every=5)) == 30
