"""The service on a socket, from start to stop.

It opens the socket, prints one line with the address, and ends on a signal. `app.py` has the
routes, `settings.py` the settings.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import Any, override

import uvicorn

from generator_service import standard_output
from generator_service.app import create_app
from generator_service.settings import Settings, SettingsError

# Seconds that responses have to finish when the service stops.
_GRACE = 1
_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "generator_service": {"handlers": ["stderr"], "level": "WARNING"},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING"},
        "uvicorn.access": {"level": "INFO"},
    },
}


class _Server(uvicorn.Server):
    """A server that prints its address when it is ready, and always stops."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _announce(f"generator_service listening on {self._address}")

    @override
    def handle_exit(self, sig: int, frame: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse new connections; after the grace period exit, whatever is still open."""
        self.should_exit = True
        # Python waits for its threads, and a computation in one cannot be cancelled. The client
        # of an open stream sees that it breaks off.
        deadline = threading.Timer(_GRACE, os._exit, [0])
        deadline.daemon = True
        deadline.start()


def _announce(line: str) -> None:
    """Print a line; the service goes on when standard output cannot be written."""
    try:
        # Prints nothing when standard output is closed.
        print(line, flush=True)  # noqa: T201 - for the process that started this one
    except OSError as error:
        sys.stderr.write(f"{line}; standard output cannot be written: {error.strerror}\n")
        standard_output.discard()


def _stop_with_stdin(server: _Server) -> None:
    # Reads the descriptor: the lock of sys.stdin, held by a daemon thread, would block the exit.
    while os.read(sys.stdin.fileno(), 65_536):
        pass
    server.stop()


def serve(host: str | None, port: int | None, *, until_stdin_closes: bool = False) -> int:
    """Serve until a signal, or the end of standard input, ends the service.

    Args:
        host: the host to listen on; None is the setting's.
        port: the port to listen on; 0 is any free port, None the setting's.
        until_stdin_closes: stop when standard input ends.

    Returns:
        The exit code: 1 when it cannot listen, 2 for unusable settings, else 0.
    """
    given = {"host": host, "port": port}
    try:
        settings = Settings.load(
            **{name: value for name, value in given.items() if value is not None}
        )
    except SettingsError as error:
        return _fail(str(error), 2)
    try:
        listener = _listen(settings.host, settings.port)
    except (OSError, UnicodeError) as error:
        where = f"{settings.host}:{settings.port}"
        reason = (isinstance(error, OSError) and error.strerror) or "that is no name of a host"
        return _fail(
            f"cannot listen on {where}: {reason}. Give another --host or --port"
            " (GENERATOR_HOST, GENERATOR_PORT).",
            1,
        )
    bound_host, bound_port = listener.getsockname()[:2]
    url_host = f"[{bound_host}]" if ":" in bound_host else bound_host
    config = uvicorn.Config(
        create_app(settings),
        log_config=_LOGGING,
        access_log=settings.access_log,
    )
    server = _Server(config, f"http://{url_host}:{bound_port}")
    if until_stdin_closes:
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
    server.run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"generator_service: {message}\n")
    return code
