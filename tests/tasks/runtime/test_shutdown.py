"""Test that SIGTERM ends a slice after its current page, and does not end the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tasks.runtime.shutdown import finish_page_on_sigterm, is_stopping
from tests.processes import ROOT

FORKED = """
import os
from celery.signals import worker_shutting_down
from tasks.runtime.shutdown import is_stopping
ready, tell = os.pipe()
child = os.fork()
if not child:
    os.read(ready, 1)
    os._exit(is_stopping())
assert not is_stopping()
worker_shutting_down.send(sender=None)
os.write(tell, b"x")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(is_stopping()))
"""


def test_sigterm_during_a_slice_stops_only_that_slice() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with finish_page_on_sigterm():
        assert not is_stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        assert is_stopping()
    assert not is_stopping()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_that_shuts_down_also_stops_its_forked_processes() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", FORKED], env=environ, check=True, capture_output=True, text=True)
    assert result.stdout == "1 1\n"
