"""`python -m generator_service`: the service on a socket, from start to stop.

Here: the command line, the socket, the one line that says where, signals and ends. Not here:
what is answered (`app.py`), what can be set (`settings.py`).
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, override

import uvicorn

from generator_service.app import create_app
from generator_service.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds that answers on their way get to end when the service stops.
_GRACE = 1
_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING"},
        "uvicorn.access": {"level": "INFO"},
    },
}


class _NoPandas:
    """Nothing here uses pandas, but pyarrow imports it where it can: a quarter of the start."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


class _Server(uvicorn.Server):
    """A server that says where it listens as soon as it answers, and that stops for certain."""

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
        """End: refuse what is new, and after a grace leave the process, whatever is still open."""
        self.should_exit = True
        # A computation in a thread cannot be cut, and Python would wait for its thread; a stream
        # that breaks off is what its client must see.
        deadline = threading.Timer(_GRACE, os._exit, [0])
        deadline.daemon = True
        deadline.start()


def _announce(line: str) -> None:
    """Print a line; a service whose output has no room serves all the same."""
    try:
        # Nothing happens where standard output is closed.
        print(line, flush=True)  # noqa: T201 -- whoever started this reads it
    except OSError as error:
        sys.stderr.write(f"{line}; standard output cannot be written: {error.strerror}\n")
        # Python would try to write the line again at its end, and fail.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _stop_with_stdin(server: _Server) -> None:
    # Not through sys.stdin: its lock, held by a daemon thread, would break the exit.
    while os.read(sys.stdin.fileno(), 65_536):
        pass
    server.stop()


def _port(text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: give 0, for any free one, to 65535")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m generator_service",
        description="Serve synthetic transactions over HTTP. Settings: GENERATOR_ variables.",
    )
    parser.add_argument("--host", help="listen here (default: GENERATOR_HOST or 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, help="listen there; 0 for a free port (default: GENERATOR_PORT, 8000)"
    )
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="stop when standard input ends, so as not to outlive who started this",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit code: 1 no socket, 2 bad settings, 0 otherwise."""
    arguments = _arguments(argv)
    given = {name: getattr(arguments, name) for name in ("host", "port")}
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
        return _fail(f"cannot listen on {where}: {reason}. Give another --host or --port.", 1)
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    config = uvicorn.Config(
        create_app(settings),
        log_config=_LOGGING,
        access_log=settings.access_log,
    )
    server = _Server(config, address)
    if arguments.until_stdin_closes:
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


def program() -> int:
    """Serve in a process of its own; see `main`."""
    sys.meta_path.insert(0, _NoPandas())
    # What is there at the end need not be searched for cycles, which takes as long as to start.
    atexit.register(gc.freeze)
    return main()


if __name__ == "__main__":
    sys.exit(program())
