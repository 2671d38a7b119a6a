"""How child processes are run: started, waited for, heard, and ended with whoever started them.

What is particular to one server (its options, its data) belongs beside that server; only the
generator service is here as well, because both the platform and the local stack start it. Standard
library only, so that it can be imported where start-up time counts.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from txn_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_OUTPUT_BYTES = 64 * 1024
_CHUNK_BYTES = 4096
_LAST_LINES = 20
_POLL_SECONDS = 0.02

# Ports below those that Linux gives to outgoing connections and to servers that ask for any port;
# a port and its twin (10,000 above) never meet another port's twin.
_PORTS = range(10_240, 20_240)
_TWIN = 10_000


class ProcessFailed(UserError):  # noqa: N818 - it says what happened, as in `except ProcessFailed`
    """A child process ended, or did not become ready; says which, how, and its last lines."""


class ManagedProcess:
    """A running command that ends when it is stopped, and at the latest with this process.

    It stands in a session of its own, so that Ctrl-C reaches this process alone. It ends with this
    process however that dies, SIGKILL included, because it holds the reading end of a pipe whose
    writing end is here: either the command watches its standard input itself, or `supervisor` does.

    Args:
        name: what messages call it.
        command: the program and its arguments.
        log: the file its output replaces; without it, the last 64 KiB are kept in memory.
        environment: its whole environment; by default, this process's.
        directory: where it runs; by default, where this process does.
        watches_stdin: the command itself ends when its standard input closes, and starts no
            processes of its own.
        holds: file descriptors (say, of a lock) kept open until the command has ended.
        grace: seconds between SIGTERM and SIGKILL.

    Raises:
        ProcessFailed: the command cannot be started (with a supervisor, `wait_until` says so).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        watches_stdin: bool = False,
        holds: Sequence[int] = (),
        grace: float = 10.0,
    ) -> None:
        self.name = name
        self._log = log
        self._patience = grace if watches_stdin else grace + 2
        self._stopping = threading.Lock()
        self._memory = bytearray()
        supervisor = (
            [] if watches_stdin else [sys.executable, "-I", "-S", str(_SUPERVISOR), str(grace)]
        )
        try:
            with log.open("wb") if log else nullcontext(subprocess.PIPE) as output:
                self._process = subprocess.Popen(  # noqa: S603 - callers give fixed commands
                    [*supervisor, *command],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=directory,
                    pass_fds=holds,
                    start_new_session=True,
                )
        except OSError as error:
            raise ProcessFailed(f"{name} cannot be started: {error}") from None
        atexit.register(self.stop)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The process that stands for the child: the command itself, or its supervisor."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def output(self) -> str:
        """Give the last 64 KiB it printed, standard output and error together."""
        if self._log is None:
            return self._memory.decode(errors="replace")
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            # Somebody has removed it: what the child failed of is said all the same.
            return ""

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            ProcessFailed: it has ended.
        """
        code = self._process.poll()
        if code is not None:
            # As the supervisor has it: 128 plus the number of the signal that ended it.
            raise self._failure(f"ended with exit code {code if code >= 0 else 128 - code}")

    def wait_until[T](self, ready: Callable[[], T | None], *, timeout: float) -> T:
        """Ask `ready` again and again until it answers something, and return that.

        Whatever ends the waiting otherwise also stops the child.

        Args:
            ready: asked every 20 ms; `None`, or anything else that is false, means not yet.
            timeout: seconds.

        Raises:
            ProcessFailed: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout
        with ExitStack() as otherwise:
            otherwise.callback(self.stop)
            while True:
                answer = ready()
                # In this order: what answers in place of a dead child is something else.
                self.check()
                if answer:
                    otherwise.pop_all()
                    return answer
                if time.monotonic() > deadline:
                    raise self._failure(f"was not ready within {timeout:g} s")
                time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End it and wait for its end: SIGTERM, and SIGKILL after the grace. Again is no error."""
        with self._stopping:
            atexit.unregister(self.stop)
            if self._process.stdin is not None:
                self._process.stdin.close()
            # Signals only while nobody has waited for it: then its number cannot be another's.
            if self._process.poll() is None:
                self._signal(signal.SIGTERM)
                try:
                    self._process.wait(self._patience)
                except subprocess.TimeoutExpired:
                    self._signal(signal.SIGKILL)
                    self._process.wait()
            self._listener.join(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as output:
                while chunk := os.read(output.fileno(), _CHUNK_BYTES):
                    self._memory += chunk
                    del self._memory[:-_OUTPUT_BYTES]

    def _failure(self, what: str) -> ProcessFailed:
        if not self.alive:
            self._listener.join(1)
        lines = self.output().strip().splitlines()[-_LAST_LINES:]
        said = "Its last lines:" if lines else "It printed nothing."
        where = f"(all of it: {self._log})" if self._log else ""
        text = "\n  ".join([f"{self.name} {what}. {said}", *lines])
        return ProcessFailed(f"{text}\n{where}".rstrip())


def start_generator(
    *,
    port: int | None = 0,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    holds: Sequence[int] = (),
) -> ManagedProcess:
    """Start the generator service on 127.0.0.1, without waiting for it.

    Args:
        port: where; 0 is any free port, `None` what the service's own settings say.
        log: as for `ManagedProcess`.
        environment: as for `ManagedProcess`; the service's settings are the `GENERATOR_` variables.
        holds: as for `ManagedProcess`.
    """
    command = [sys.executable, "-m", "generator_service", "--until-stdin-closes"]
    command += ["--host", "127.0.0.1"]
    return ManagedProcess(
        "The generator service",
        command if port is None else [*command, "--port", str(port)],
        log=log,
        environment=environment,
        watches_stdin=True,
        holds=holds,
    )


def generator_url(child: ManagedProcess, *, timeout: float = 60) -> str:
    """Wait until the generator service answers, so many seconds at most, and return its URL.

    Raises:
        ProcessFailed: it did not start; its last lines say why.
    """
    listening = re.compile(r"^generator_service listening on (http://\S+)$", re.MULTILINE)
    return child.wait_until(lambda: listening.search(child.output()), timeout=timeout)[1]


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, each with the port 10,000 above it.

    SeaweedFS listens on both of each pair. Servers bind them later: a port can be taken meanwhile.

    Raises:
        UserError: there are not so many.
    """
    candidates = random.SystemRandom().sample(_PORTS, len(_PORTS))
    both_free = (port for port in candidates if port_is_free(port) and port_is_free(port + _TWIN))
    ports = list(islice(both_free, count))
    if len(ports) < count:
        raise UserError(
            f"Only {len(ports)} of {count} ports needed are free on 127.0.0.1 between "
            f"{_PORTS.start} and {_PORTS.stop - 1}: stop some servers."
        )
    return ports


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
