"""Dagster's processes for the local stack and the cluster: code servers, daemon and webserver.

Which configuration and which storage they use is up to their environment.
"""

from __future__ import annotations

import http.client
import json
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from txn_platform.local.processes import ManagedProcess

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

# Seconds until Dagster's processes are ready on a busy machine.
_PATIENCE: Final = 180


@contextmanager
def dagster_processes(
    environment: Mapping[str, str],
    logs: Path,
    *,
    port: int,
    address: str,
    modules: Sequence[str],
    holds: Sequence[int],
) -> Generator[list[ManagedProcess]]:
    """Run a code server for each module, the daemon and the webserver.

    Args:
        environment: of all of them.
        logs: the directory of their logs.
        port: of the webserver, on 127.0.0.1.
        address: of the webserver, as its users open it.
        modules: with the definitions that Dagster loads.
        holds: as for `ManagedProcess`.

    Raises:
        ProcessFailed: one of them did not start.
    """
    started: list[ManagedProcess] = []
    with ExitStack() as running:

        def start(name: str, log: str, *arguments: str) -> ManagedProcess:
            process = ManagedProcess(
                name,
                [sys.executable, "-m", *arguments],
                log=logs / f"{log}.log",
                environment=environment,
                holds=holds,
                # Time to finish their work.
                grace=30,
            )
            started.append(running.enter_context(process))
            return process

        # For this user alone: who reaches a code server's socket can run code.
        directory = Path(running.enter_context(TemporaryDirectory(prefix="txn-dagster-")))
        sockets = {module: directory / f"{n}.sock" for n, module in enumerate(modules)}
        for number, (module, socket) in enumerate(sockets.items()):
            command = ["dagster", "code-server", "start", "--module-name", module]
            command += ["--socket", str(socket), "--use-python-environment-entry-point"]
            command += ["--log-level", "warning", "--inject-env-vars-from-instance"]
            server = start("Dagster's code server", f"dagster-code-{number}", *command)
            # One after another: the first one makes Dagster's databases.
            server.wait_until(socket.is_socket, timeout=_PATIENCE)
        workspace = directory / "workspace.yaml"
        workspace.write_text(_workspace(sockets), "utf-8")
        start("Dagster's daemon", "dagster-daemon", "dagster._daemon", "run", "-w", str(workspace))
        webserver = ["txn_platform.webserver", str(workspace), str(port), address]
        start("Dagster's webserver", "dagster-webserver", *webserver).wait_until(
            lambda: _answers(port, "/server_info"), timeout=_PATIENCE
        )
        yield started


def _workspace(sockets: dict[str, Path]) -> str:
    """Dagster's workspace file for code servers, by the module that each one loads."""
    locations = [
        {"grpc_server": {"socket": str(socket), "location_name": module}}
        for module, socket in sockets.items()
    ]
    # JSON is YAML.
    return json.dumps({"load_from": locations})


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
