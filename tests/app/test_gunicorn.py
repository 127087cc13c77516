"""Test the configuration of gunicorn: settings from the environment, and the folder of its metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

LOAD = "import os, runpy; config = runpy.run_path('app/gunicorn.py'); "
"""Load the file without its package, as gunicorn does."""

PRINT_FOLDER = "print(os.environ['PROMETHEUS_MULTIPROC_DIR'])"


def load_config(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    command = [sys.executable, "-c", LOAD + code]
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("value", ["0", "65536", "-1", "eighty"])
def test_the_error_for_an_invalid_port_names_the_expected_value(value: str) -> None:
    result = load_config("", WEB_PORT=value)
    expected = f"WEB_PORT is {value!r}, expected a whole number from 1 to 65535."
    assert (result.returncode, result.stderr.strip()) == (1, expected)


def test_the_environment_sets_the_address_and_the_workers() -> None:
    code = "print(config['bind'], config['workers'])"
    assert load_config(code, WEB_HOST="127.0.0.2", WEB_PORT="81", WEB_WORKERS="3").stdout == "127.0.0.2:81 3\n"
    assert load_config(code, WEB_HOST="", WEB_PORT="", WEB_WORKERS="").stdout == "127.0.0.1:8000 2\n"


def test_a_new_folder_for_metrics_is_removed_at_exit() -> None:
    folder = load_config(PRINT_FOLDER).stdout.strip()
    assert "kasparro-metrics-" in folder
    assert not Path(folder).exists()


def test_a_configured_folder_for_metrics_is_kept(tmp_path: Path) -> None:
    assert load_config(PRINT_FOLDER, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)).stdout.strip() == str(tmp_path)
    assert tmp_path.exists()


def test_an_invalid_setting_stops_the_start_without_a_traceback() -> None:
    result = load_config("", STATEMENT_TIMEOUT="soon")
    assert result.returncode == 1
    assert "STATEMENT_TIMEOUT" in result.stderr
    assert "Traceback" not in result.stderr
