"""Build the environment of the stack's processes: real variables first, then .env, then the stack's own defaults."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from honcho.environ import parse

from devstack.state_folder import StateFolder, is_port_free

CHECKOUT = Path(__file__).resolve().parents[1]
MARK = "KASPARRO_STACK"
"""The variable that names the data folder in every process of a stack. It identifies leftover processes."""

WEB_PORT, FLOWER_PORT = 8000, 5555
FLOWER_USER = "kasparro"
RECORDED, LIVE = "replay", "live"
"""The values of UPSTREAM: recorded upstreams, or the real ones."""

RECORDED_PATHS = {"COINPAPRIKA": "/coinpaprika/v1", "COINGECKO": "/coingecko/api/v3"}
REAL_VARIABLES = ("API_KEY", "API_SECRET", "API_PASSPHRASE", "PLAN")
REAL_UPSTREAM_VARIABLES = {f"{source}_{variable}" for source in RECORDED_PATHS for variable in REAL_VARIABLES}


class WrongEnvironment(Exception):
    """The stack cannot start with this environment. The message includes the next step."""


def read_environment(environ: Mapping[str, str], checkout: Path = CHECKOUT) -> dict[str, str]:
    """Return the real environment, with missing variables from .env. An empty variable counts as missing."""
    file = checkout / ".env"
    try:
        dotenv = parse(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise WrongEnvironment(
            f"{file} cannot be read: {error}. Expected lines such as NAME=value or NAME='value'."
        ) from None
    return {**dotenv, **{name: value for name, value in environ.items() if value.strip() or name not in dotenv}}


def data_folder(environ: Mapping[str, str], checkout: Path = CHECKOUT) -> Path:
    """Return the folder for all data of the stack: KASPARRO_DATA, or .data in the checkout."""
    return Path(environ.get("KASPARRO_DATA", "").strip() or checkout / ".data").absolute()


def procfile(environ: Mapping[str, str], checkout: Path = CHECKOUT) -> Path:
    """Return the path of the Procfile to run: PROCFILE, or Procfile in the checkout."""
    return Path(environ.get("PROCFILE", "").strip() or checkout / "Procfile")


def upstream(environ: Mapping[str, str]) -> str:
    """Return RECORDED (the default) or LIVE."""
    value = environ.get("UPSTREAM", "").strip() or RECORDED
    if value not in (RECORDED, LIVE):
        raise WrongEnvironment(
            f"UPSTREAM is {value!r}. Expected `{RECORDED}` (recorded upstreams) or `{LIVE}` (real upstreams)."
        )
    return value


def choose_port(environ: Mapping[str, str], state: StateFolder, variable: str, default: int) -> int:
    """Return the port that the variable sets. If it is unset, return the stored port, the default or any free port.

    Raise WrongEnvironment if the value is not a port number, or if the port is in use.
    """
    value = environ.get(variable, "").strip()
    if not value:
        return state.port(variable.lower().removesuffix("_port"), default)
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise WrongEnvironment(f"{variable} is {value!r}. Expected a whole number from 1 to 65535.")
    if not is_port_free(int(value)):
        raise WrongEnvironment(f"{variable} is {value}, but that port is in use. Unset it, or choose another port.")
    return int(value)


def explain_port(environ: Mapping[str, str], variable: str, port: int, default: int) -> str | None:
    """Return why a port is not the default. Return None if it is the default, or if the variable sets it."""
    if environ.get(variable, "").strip() or port == default:
        return None
    reason = f"an earlier start chose {port}" if is_port_free(default) else f"port {default} is in use"
    return f"{variable} is {port}, because {reason}; later starts keep it unless you set {variable}"


def check_reachable(variable: str, url: str) -> None:
    """Raise WrongEnvironment if no server listens at the URL.

    Check this once, since otherwise every process reports the same error.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        return  # A Unix socket, or an invalid URL, which the settings report more precisely.
    port = parts.port or (5432 if parts.scheme.startswith("postgres") else 6379)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError as error:
        raise WrongEnvironment(
            f"{variable}: cannot connect to {parts.hostname}:{port}: {error}. Start that server, or correct {variable}."
        ) from None


def ignored_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the set variables that the recorded upstreams replace."""
    names = REAL_UPSTREAM_VARIABLES | {f"{source}_URL" for source in RECORDED_PATHS}
    return sorted(name for name in names if environ.get(name, "").strip())


def for_processes(
    environ: Mapping[str, str], folder: Path, *, defaults: Mapping[str, str], recorded_url: str | None
) -> dict[str, str]:
    """Return the environment of the Procfile's processes.

    defaults: values for variables that the environment does not set.
    recorded_url: base URL of the recorded upstreams. It replaces the addresses, keys and plans of the real upstreams.
    """
    set_names = {name for name, value in environ.items() if value.strip()}
    env = {**environ, **{name: value for name, value in defaults.items() if name not in set_names}}
    if recorded_url:
        env = {name: value for name, value in env.items() if name not in REAL_UPSTREAM_VARIABLES}
        env |= {f"{source}_URL": recorded_url + path for source, path in RECORDED_PATHS.items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH') or os.defpath}"
    # Without compiled files, every process takes seconds longer to start.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    return env | {MARK: str(folder), "PATH": path, "PYTHONUNBUFFERED": "1"}
