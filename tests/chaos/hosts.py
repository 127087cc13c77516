"""Run several hosts on one machine: network namespaces whose links to the servers can drop every packet.

Each link is a pair of devices with its own network. A cut link accepts what either side sends and delivers nothing.
Neither side gets a refusal, a reset or an "unreachable", as if a switch between them had failed.
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
from tests.chaos.registry import NotRun
from tests.processes import ROOT, Process

TEST_NETWORK = IPv4Network("198.18.0.0/15")
"""A network reserved for tests (RFC 2544), so no machine uses its addresses."""

BLOCK_PREFIX_BITS = 28
"""Prefix length of a block of 16 addresses for hosts created together: two addresses for each of eight links."""

PREFIX = "kasparro"


@dataclass(frozen=True)
class Link:
    """The only link from a host to one server. near, far: the device and address of the host and of the server."""

    namespace: str
    near_device: str
    far_device: str
    near: IPv4Address
    far: IPv4Address

    def create(self) -> None:
        """Create the pair of devices, and register each end as the other's neighbor."""
        other_end = ("peer", "name", self.near_device, "address", _mac(self.near), "netns", self.namespace)
        _run("ip", "link", "add", self.far_device, "address", _mac(self.far), "type", "veth", *other_end)
        self._configure((), self.far_device, self.far, self.near)
        self._configure(("-n", self.namespace), self.near_device, self.near, self.far)

    def delete(self) -> None:
        """Delete both ends, if they exist."""
        _run("ip", "link", "del", self.far_device, check=False)

    def cut(self) -> None:
        """Drop everything that either side sends from now on, without notifying either."""
        self._set_discipline("blackhole", requests=True, responses=True)

    def drop_responses(self) -> None:
        """Drop all packets from the server from now on. The server still receives packets from the host."""
        self._set_discipline("blackhole", responses=True)

    def heal(self) -> None:
        self._set_discipline("noqueue", requests=True, responses=True)

    def _set_discipline(self, discipline: str, *, requests: bool = False, responses: bool = False) -> None:
        """Set the queueing discipline for the packets of the host (requests) or the server (responses)."""
        if responses:
            _run("tc", "qdisc", "replace", "dev", self.far_device, "root", discipline)
        if requests:
            _run("tc", "-n", self.namespace, "qdisc", "replace", "dev", self.near_device, "root", discipline)

    def _configure(self, namespace: Sequence[str], device: str, own: IPv4Address, other: IPv4Address) -> None:
        _run("ip", *namespace, "address", "add", f"{own}/31", "dev", device)
        _run("ip", *namespace, "link", "set", device, "up")
        # Make the entry permanent, since an ARP request on a cut link would fail within seconds and reveal the cut.
        neighbour = (str(other), "lladdr", _mac(other), "dev", device, "nud", "permanent")
        _run("ip", *namespace, "neighbour", "replace", *neighbour)


@dataclass(frozen=True)
class Host:
    """A network namespace for processes. They can reach only the servers, each over its own link."""

    namespace: str
    links: Mapping[str, Link]
    cleanup: ExitStack = field(default_factory=ExitStack)

    def url(self, link: str, url: str) -> str:
        """Return the URL of the server at `url` on the outer loopback, as seen from this host over a link."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{self.links[link].far}:{parts.port}").geturl()

    def start(self, role: str, log: Path, environ: Mapping[str, str]) -> Process:
        """Start a process of the service on this host. It is killed when the host is deleted."""
        process = Process(role, log, environ, prefix=self._prefix)
        self.cleanup.callback(process.kill)
        return process

    def run(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start any other command on this host. It is killed when the host is deleted."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self._prefix, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self.cleanup.callback(process.wait)
        self.cleanup.callback(process.kill)
        return process

    @property
    def _prefix(self) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.namespace


class ReachablePostgres(Postgres):
    """A Postgres that hosts reach at these addresses. The addresses must exist when it starts."""

    def __init__(self, folder: Path, addresses: Sequence[IPv4Address]):
        super().__init__(folder)
        self._addresses = addresses

    def _prepare(self) -> None:
        super()._prepare()
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {TEST_NETWORK} scram-sha-256\n")

    def _command(self) -> tuple[Account, list[str | Path]]:
        account, argv = super()._command()
        return account, [*argv, f"--listen_addresses={','.join(map(str, ('127.0.0.1', *self._addresses)))}"]


@contextmanager
def hosts(names: Sequence[str], links: Sequence[str]) -> Iterator[list[Host]]:
    """Yield hosts with these links, and delete them at the end. Raise NotRun if the machine refuses."""
    _check_machine()
    with ExitStack() as stack:
        try:
            _delete_leftovers()
            block = _free_block()
            created = [
                stack.enter_context(_host(name, links, block[number * 2 * len(links) :]))
                for number, name in enumerate(names)
            ]
        except subprocess.CalledProcessError as error:
            raise NotRun(f"this machine refuses `{' '.join(error.cmd)}`: {error.stderr.strip()}") from None
        yield created


@contextmanager
def _host(name: str, links: Sequence[str], addresses: Sequence[IPv4Address]) -> Iterator[Host]:
    namespace = f"{PREFIX}{os.getpid()}-{name}"
    # A device's name has at most 15 characters.
    devices = [f"k{os.getpid()}{name}{number}" for number, _ in enumerate(links)]
    ends = zip(links, devices, addresses[0::2], addresses[1::2], strict=False)
    host = Host(namespace, {link: Link(namespace, link, device, near, far) for link, device, near, far in ends})
    with host.cleanup:
        host.cleanup.callback(_run, "ip", "netns", "del", namespace, check=False)
        _run("ip", "netns", "add", namespace)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        for link in host.links.values():
            host.cleanup.callback(link.delete)
            link.create()
            link.cut()  # Fail now on a machine that cannot cut links.
            link.heal()
        yield host


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise NotRun("only Linux has network namespaces")
    if os.geteuid() != 0:
        raise NotRun("only root may create network namespaces")
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            raise NotRun(f"the program `{program}` of iproute2 is not installed")


def _delete_leftovers() -> None:
    """Delete the devices and namespaces of killed suites, and kill the processes in them."""
    for device, owner in re.findall(r"^\d+: (k(\d+)[a-z]\d+)@", _run("ip", "-oneline", "link"), re.MULTILINE):
        if _has_exited(owner):
            _run("ip", "link", "del", device, check=False)
    for namespace, owner in re.findall(rf"^({PREFIX}(\d+)-\w+)", _run("ip", "netns", "list"), re.MULTILINE):
        if _has_exited(owner):
            for pid in _run("ip", "netns", "pids", namespace, check=False).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run("ip", "netns", "del", namespace, check=False)


def _has_exited(pid: str) -> bool:
    return not Path("/proc", pid).exists()


def _free_block() -> list[IPv4Address]:
    """Return a block of addresses that no device uses. Each process starts its search at a different block."""
    taken = _run("ip", "-4", "-oneline", "address", "show")
    blocks = list(TEST_NETWORK.subnets(new_prefix=BLOCK_PREFIX_BITS))
    for offset in range(len(blocks)):
        addresses = list(blocks[(os.getpid() + offset) % len(blocks)])
        if not any(f" {address}/" in taken for address in addresses):
            return addresses
    raise NotRun(f"no free addresses in {TEST_NETWORK}")


def _mac(address: IPv4Address) -> str:
    """Return a locally administered MAC address, unique for each IP address."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x6B, *address.packed))


def _run(*command: str, check: bool = True) -> str:
    """Run an iproute2 command, protected from Ctrl-C, and return its output."""
    return subprocess.run(command, capture_output=True, text=True, check=check, start_new_session=True).stdout
