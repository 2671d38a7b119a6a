"""Managed processes: their start, their output, and their end with their owner.

The options and data of a server belong in a module of that server. The generator service is here,
because both the platform and the local stack start it. Standard library only, because start-up time
counts where this is imported.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import signal
import socket
import subprocess  # nosec B404 # each use has its reason
import sys
import threading
import time
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from txn_platform.errors import UserError
from txn_platform.runbook import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_OUTPUT_BYTES = 64 * 1024
_CHUNK_BYTES = 4096
_LAST_LINES = 20
_POLL_SECONDS = 0.02

# Below the range from which Linux chooses ports itself. A port and its twin (10,000 above) never
# collide with another pair.
_PORTS = range(10_240, 20_240)
_TWIN = 10_000


class ProcessFailed(UserError):  # noqa: N818 - it says what happened, as in `except ProcessFailed`
    """A managed process ended or did not become ready. The message has its last lines."""

    section = Section.PROCESS


class ManagedProcess:
    """A running command that ends when it is stopped, and at the latest with this process.

    It has a session of its own, so that Ctrl-C reaches only this process. It ends with this
    process, even after SIGKILL, because its standard input is a pipe from here that closes then:
    either the command watches its standard input, or `supervisor` does.

    Args:
        name: for messages.
        command: the program and its arguments.
        log: the file that its output replaces; without it, the last 64 KiB are kept in memory.
        environment: its whole environment; by default, this process's.
        directory: where it runs; by default, where this process does.
        watches_stdin: the command itself ends when its standard input closes, and starts no
            processes of its own.
        umask: of the command; by default, this process's.
        holds: file descriptors (say, of a lock) kept open until the command has ended.
        grace: seconds between the request to end and SIGKILL.
        stop_signal: asks the command alone to end, which ends its own processes; by default, its
            whole group gets SIGTERM.
        user: ids of the user and the group that it runs as; by default, this process's.

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
        umask: int = -1,
        holds: Sequence[int] = (),
        grace: float = 10.0,
        stop_signal: int = 0,
        user: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._patience = grace if watches_stdin else grace + 2
        self._stopping = threading.Lock()
        self._memory = bytearray()
        owner = "-" if user is None else f"{user[0]}:{user[1]}"
        supervisor = [str(_SUPERVISOR), str(grace), str(int(stop_signal)), owner]
        self._popen = partial(
            subprocess.Popen[bytes],
            [*([] if watches_stdin else [sys.executable, "-I", "-S", *supervisor]), *command],
            stdin=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            umask=umask,
            pass_fds=holds,
            start_new_session=True,
        )
        self._start("wb")

    def _start(self, mode: Literal["wb", "ab"]) -> None:
        try:
            with self.log.open(mode) if self.log else nullcontext(subprocess.PIPE) as output:
                self._process = self._popen(stdout=output)
        except OSError as error:
            raise ProcessFailed(f"{self.name} cannot be started: {error}") from None
        atexit.register(self.stop)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start_again(self) -> None:
        """Start the command again after it has ended. Its output follows that of before.

        Raises:
            ProcessFailed: as for a new one.
        """
        self.stop()
        self._start("ab")

    @property
    def pid(self) -> int:
        """The id of the command, or of its supervisor if it has one."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """As the supervisor has it: 128 plus the number of the signal that ended it.

        None while it runs.
        """
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def output(self) -> str:
        """The last 64 KiB that it printed, standard output and error together."""
        if self.log is None:
            return self._memory.decode(errors="replace")
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _OUTPUT_BYTES))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            # The log was removed. The failure is reported without it.
            return ""

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            ProcessFailed: it has ended.
        """
        if (code := self.exit_code) is not None:
            raise self._failure(f"ended with exit code {code}")

    def wait_until[T](self, ready: Callable[[], T | None], *, timeout: float) -> T:
        """Call `ready` until it returns something true, and return that.

        If the wait ends in any other way, the process is stopped.

        Args:
            ready: called every 20 ms; a false value means not yet.
            timeout: seconds.

        Raises:
            ProcessFailed: it ended, or was not ready in time.
        """
        deadline = time.monotonic() + timeout
        with ExitStack() as on_failure:
            on_failure.callback(self.stop)
            while True:
                answer = ready()
                # In this order: another program may answer in place of a dead process.
                self.check()
                if answer:
                    on_failure.pop_all()
                    return answer
                if time.monotonic() > deadline:
                    raise self._failure(f"was not ready within {timeout:g} s")
                time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End it by SIGTERM, and by SIGKILL after the grace. A second call does nothing."""
        with self._stopping:
            atexit.unregister(self.stop)
            if self._process.stdin is not None:
                self._process.stdin.close()
            # Signal before reaping: PIDs are reused.
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
        where = f"(all of it: {self.log})" if self.log else ""
        text = "\n  ".join([f"{self.name} {what}. {said}", *lines])
        return ProcessFailed(f"{text}\n{where}".rstrip())


def start_generator(
    *,
    port: int | None = 0,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    holds: Sequence[int] = (),
) -> ManagedProcess:
    """Start the generator service on 127.0.0.1, without keys, and without waiting for it.

    Args:
        port: its port; 0 is any free port, `None` the port of the service's own settings.
        log: as for `ManagedProcess`.
        environment: as for `ManagedProcess`; the service's settings are the `GENERATOR_` variables.
        holds: as for `ManagedProcess`.
    """
    command = [sys.executable, "-m", "generator_service", "--until-stdin-closes"]
    # The keys of a service that others use are no concern of this one.
    command.append("--local")
    return ManagedProcess(
        "The generator service",
        command if port is None else [*command, "--port", str(port)],
        log=log,
        environment=environment,
        watches_stdin=True,
        holds=holds,
    )


def generator_url(generator: ManagedProcess, *, timeout: float = 60) -> str:
    """Wait until the generator service answers, at most `timeout` seconds, and return its URL.

    Raises:
        ProcessFailed: it did not start; its last lines say why.
        UserError: it did not start, and gave the reason in one sentence.
    """
    listening = re.compile(r"^generator_service listening on (http://\S+)$", re.MULTILINE)
    try:
        return generator.wait_until(lambda: listening.search(generator.output()), timeout=timeout)[
            1
        ]
    except ProcessFailed:
        reason = re.search(r"^generator_service: (.+)$", generator.output(), re.MULTILINE)
        if reason is None:
            raise
        raise UserError(reason[1]) from None


def free_ports(count: int) -> list[int]:
    """Free ports of 127.0.0.1 whose twin, 10,000 above, is free too.

    SeaweedFS listens on both ports of a pair. Another program can take one before the server does.

    Raises:
        UserError: there are fewer free pairs.
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
