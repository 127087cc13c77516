"""What the processes of the stack see: the real environment, then .env, then what was chosen here."""

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
"""Names the data folder in every process of a stack, so that one left behind can be told from others."""

WEB_PORT, FLOWER_PORT = 8000, 5555
FLOWER_USER = "kasparro"
REPLAY, LIVE = "replay", "live"
REPLAYED = {"COINPAPRIKA": "/coinpaprika/v1", "COINGECKO": "/coingecko/api/v3"}
OF_REAL_UPSTREAMS = {f"{source}_{variable}" for source in REPLAYED for variable in ("API_KEY", "PLAN")}


class WrongEnvironment(Exception):
    """The stack cannot start with this environment; the message says what to change."""


def read_environment(environ: Mapping[str, str], checkout: Path = CHECKOUT) -> dict[str, str]:
    """The real environment, and what .env has beside it. Empty means unset, as everywhere in Kasparro."""
    file = checkout / ".env"
    try:
        noted = parse(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise WrongEnvironment(f"{file} cannot be read: {error}. Its lines are NAME=value or NAME='value'.") from None
    return {**noted, **{name: value for name, value in environ.items() if value.strip() or name not in noted}}


def data_folder(environ: Mapping[str, str], checkout: Path = CHECKOUT) -> Path:
    """Where everything is that the stack keeps: .data in the checkout, or KASPARRO_DATA."""
    return Path(environ.get("KASPARRO_DATA", "").strip() or checkout / ".data").absolute()


def procfile(environ: Mapping[str, str], checkout: Path = CHECKOUT) -> Path:
    """The Procfile to run: the checkout's, or PROCFILE."""
    return Path(environ.get("PROCFILE", "").strip() or checkout / "Procfile")


def upstream(environ: Mapping[str, str]) -> str:
    """`replay` (the default) or `live`."""
    asked = environ.get("UPSTREAM", "").strip() or REPLAY
    if asked not in (REPLAY, LIVE):
        raise WrongEnvironment(f"UPSTREAM is {asked!r}: it is either `{REPLAY}` (recorded answers) or `{LIVE}`.")
    return asked


def choose_port(environ: Mapping[str, str], kept: StateFolder, variable: str, usual: int) -> int:
    """The port that the environment asks for, which must then be free; else one that is."""
    asked = environ.get(variable, "").strip()
    if not asked:
        return kept.port(variable.lower().removesuffix("_port"), usual)
    if not asked.isdigit() or not 0 < int(asked) < 65536:
        raise WrongEnvironment(f"{variable} is {asked!r}: it must be a number from 1 to 65535.")
    if not is_port_free(int(asked)):
        raise WrongEnvironment(f"{variable} is {asked}, and something listens there: unset it, or choose another.")
    return int(asked)


def check_reachable(variable: str, url: str) -> None:
    """Raises WrongEnvironment where nothing listens at a server's URL: better said now than by every process."""
    parts = urlsplit(url)
    if not parts.hostname:
        return  # a Unix socket; or wrong, which the settings say better
    port = parts.port or (5432 if parts.scheme.startswith("postgres") else 6379)
    try:
        socket.create_connection((parts.hostname, port), timeout=5).close()
    except OSError as error:
        raise WrongEnvironment(f"{variable}: nothing answers at {parts.hostname}:{port}: {error}.") from None


def for_processes(
    environ: Mapping[str, str], folder: Path, *, chosen: Mapping[str, str], replay: str | None
) -> dict[str, str]:
    """What the Procfile's processes see.

    chosen: used where the environment says nothing.
    replay: base URL of the replay server; the replayed upstreams' real addresses, keys and plans are then taken out.
    """
    set_names = {name for name, value in environ.items() if value.strip()}
    seen = {**environ, **{name: value for name, value in chosen.items() if name not in set_names}}
    if replay:
        seen = {name: value for name, value in seen.items() if name not in OF_REAL_UPSTREAMS}
        seen |= {f"{source}_URL": replay + path for source, path in REPLAYED.items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{seen.get('PATH') or os.defpath}"
    # Without compiled files beside the code every process would take seconds more to start, at every start.
    seen.pop("PYTHONDONTWRITEBYTECODE", None)
    return seen | {MARK: str(folder), "PATH": path, "PYTHONUNBUFFERED": "1"}
