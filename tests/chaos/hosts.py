"""Hosts of their own on one machine: network namespaces, whose links to the servers can swallow every packet.

Each link is a pair of devices with a network of its own. A cut link takes what either side sends and delivers nothing:
no refusal, no reset and no "unreachable" tells anybody, as when a switch on the way has died.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from urllib.parse import urlsplit

from devstack.postgres import Postgres
from devstack.process import Account
from tests.chaos.stage import NotRun
from tests.processes import ROOT, Process

TESTING = IPv4Network("198.18.0.0/15")
"""Set aside for tests of networks (RFC 2544): no machine has its own addresses there."""

BLOCK_BITS = 28
"""Hosts that are made together take 16 of these addresses: two for each of up to eight links."""

PREFIX = "kasparro"


@dataclass(frozen=True)
class Link:
    """The one way from a host to one of the servers. near: the host's device and address; far: the server's."""

    namespace: str
    near_device: str
    far_device: str
    near: IPv4Address
    far: IPv4Address

    def lay(self) -> None:
        """Make the pair of devices, and have each end know the other."""
        other_end = ("peer", "name", self.near_device, "address", _mac(self.near), "netns", self.namespace)
        _run("ip", "link", "add", self.far_device, "address", _mac(self.far), "type", "veth", *other_end)
        self._join((), self.far_device, self.far, self.near)
        self._join(("-n", self.namespace), self.near_device, self.near, self.far)

    def take_away(self) -> None:
        """Both ends of it, if it was laid at all."""
        _run("ip", "link", "del", self.far_device, check=False)

    def cut(self) -> None:
        """From now on nothing that either side sends arrives, and neither is told."""
        self._have_sent("blackhole", asked=True, answered=True)

    def lose_answers(self) -> None:
        """From now on the server hears the host, and the host does not hear the server."""
        self._have_sent("blackhole", answered=True)

    def heal(self) -> None:
        self._have_sent("noqueue", asked=True, answered=True)

    def _have_sent(self, discipline: str, *, asked: bool = False, answered: bool = False) -> None:
        """What becomes of that which the host asks, and of that which the server answers."""
        if answered:
            _run("tc", "qdisc", "replace", "dev", self.far_device, "root", discipline)
        if asked:
            _run("tc", "-n", self.namespace, "qdisc", "replace", "dev", self.near_device, "root", discipline)

    def _join(self, where: Sequence[str], device: str, own: IPv4Address, other: IPv4Address) -> None:
        _run("ip", *where, "address", "add", f"{own}/31", "dev", device)
        _run("ip", *where, "link", "set", device, "up")
        # For good: who has to ask where a neighbour is learns within seconds that it does not answer.
        neighbour = (str(other), "lladdr", _mac(other), "dev", device, "nud", "permanent")
        _run("ip", *where, "neighbour", "replace", *neighbour)


@dataclass(frozen=True)
class Host:
    """A place for processes, which reach each server over a link of its own, and nothing else at all."""

    namespace: str
    links: Mapping[str, Link]
    on_end: ExitStack = field(default_factory=ExitStack)

    def url(self, link: str, url: str) -> str:
        """The URL under which this host reaches, over a link, what is at `url` on loopback outside."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{self.links[link].far}:{parts.port}").geturl()

    def start(self, role: str, log: Path, environ: Mapping[str, str]) -> Process:
        """Start a process of the service here; killed, if it still runs, when the host is taken away."""
        process = Process(role, log, environ, prefix=self._prefix)
        self.on_end.callback(process.kill)
        return process

    def run(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start any other command here; killed likewise."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self._prefix, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.on_end.callback(process.wait)
        self.on_end.callback(process.kill)
        return process

    @property
    def _prefix(self) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.namespace


class ReachablePostgres(Postgres):
    """Postgres that hosts reach at these addresses, which must be there when it starts."""

    def __init__(self, folder: Path, addresses: Sequence[IPv4Address]):
        super().__init__(folder)
        self._addresses = addresses

    def _prepare(self) -> None:
        super()._prepare()
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {TESTING} scram-sha-256\n")

    def _command(self) -> tuple[Account, list[str | Path]]:
        account, argv = super()._command()
        return account, [*argv, f"--listen_addresses={','.join(map(str, ('127.0.0.1', *self._addresses)))}"]


@contextmanager
def hosts(names: Sequence[str], links: Sequence[str]) -> Iterator[list[Host]]:
    """Hosts, each with its links; all of it is taken away again. Raises NotRun where the machine refuses."""
    _check_machine()
    with ExitStack() as stack:
        try:
            _take_away_leftovers()
            block = _free_block()
            made = [
                stack.enter_context(_host(name, links, block[place * 2 * len(links) :]))
                for place, name in enumerate(names)
            ]
        except subprocess.CalledProcessError as refused:
            raise NotRun(f"`{' '.join(refused.cmd)}` is refused here: {refused.stderr.strip()}") from None
        yield made


@contextmanager
def _host(name: str, links: Sequence[str], addresses: Sequence[IPv4Address]) -> Iterator[Host]:
    namespace = f"{PREFIX}{os.getpid()}-{name}"
    # A device's name has at most 15 characters.
    devices = [f"k{os.getpid()}{name}{place}" for place, _ in enumerate(links)]
    ends = zip(links, devices, addresses[0::2], addresses[1::2], strict=False)
    host = Host(namespace, {link: Link(namespace, link, device, near, far) for link, device, near, far in ends})
    with host.on_end:
        host.on_end.callback(_run, "ip", "netns", "del", namespace, check=False)
        _run("ip", "netns", "add", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        for link in host.links.values():
            host.on_end.callback(link.take_away)
            link.lay()
            link.cut()  # a machine that cannot do so says it now
            link.heal()
        yield host


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise NotRun("network namespaces are Linux's")
    if os.geteuid() != 0:
        raise NotRun("only root may make network namespaces")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise NotRun(f"there is no `{program}` here (iproute2)")


def _take_away_leftovers() -> None:
    """Of a suite that was killed: its devices, its namespaces, and what still runs in them."""
    for device, owner in re.findall(r"^\d+: (k(\d+)[a-z]\d+)@", _run("ip", "-oneline", "link"), re.MULTILINE):
        if _is_gone(owner):
            _run("ip", "link", "del", device, check=False)
    for namespace, owner in re.findall(rf"^({PREFIX}(\d+)-\w+)", _run("ip", "netns", "list"), re.MULTILINE):
        if _is_gone(owner):
            for pid in _run("ip", "netns", "pids", namespace, check=False).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run("ip", "netns", "del", namespace, check=False)


def _is_gone(pid: str) -> bool:
    return not Path("/proc", pid).exists()


def _free_block() -> list[IPv4Address]:
    """Addresses that no device has, others with each process."""
    taken = _run("ip", "-4", "-oneline", "address", "show")
    blocks = list(TESTING.subnets(new_prefix=BLOCK_BITS))
    for turn in range(len(blocks)):
        addresses = list(blocks[(os.getpid() + turn) % len(blocks)])
        if not any(f" {address}/" in taken for address in addresses):
            return addresses
    raise NotRun(f"no addresses are left in {TESTING}")


def _mac(address: IPv4Address) -> str:
    """A locally administered address of its own for each device."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x6B, *address.packed))


def _run(*command: str, check: bool = True) -> str:
    """Run a command of iproute2, out of Ctrl-C's reach; gives what it says."""
    return subprocess.run(command, capture_output=True, text=True, check=check, start_new_session=True).stdout
