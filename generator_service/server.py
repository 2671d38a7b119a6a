"""The service on a socket, from start to stop.

It opens the socket, prints one line with the address, and ends on a signal. `app.py` has the
routes, `settings.py` the settings.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from typing import Any, override

import uvicorn

from generator_service import standard_output
from generator_service.access import is_loopback
from generator_service.app import create_app
from generator_service.computations import keep_little_memory
from generator_service.connections import BoundedConnection
from generator_service.keys import KeysError
from generator_service.settings import Settings, SettingsError

# For programs that start a service of their own.
_LOCAL = {"host": "127.0.0.1", "ssl_certfile": None, "ssl_keyfile": None}
# Seconds that responses have to finish when the service stops.
_GRACE = 1
_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "generator_service": {"handlers": ["stderr"], "level": "WARNING"},
        "generator_service.access": {"level": "INFO"},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING"},
    },
}


class _NotLocalError(Exception):
    """A service without keys would serve other machines."""


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


def serve(
    host: str | None, port: int | None, *, until_stdin_closes: bool = False, local: bool = False
) -> int:
    """Serve until a signal, or the end of standard input, ends the service.

    Args:
        host: the host to listen on; None is the setting's.
        port: the port to listen on; 0 is any free port, None the setting's.
        until_stdin_closes: stop when standard input ends.
        local: serve this machine only, without keys and without HTTPS, whatever the settings say.

    Returns:
        The exit code: 1 when it cannot listen, 2 for unusable settings, else 0.
    """
    given: dict[str, Any] = {"host": host, "port": port}
    given = {name: value for name, value in given.items() if value is not None}
    if local:
        given |= _LOCAL
    try:
        settings = Settings.load(**given)
        keep_little_memory()
        app = create_app(settings, local=local)
        _require_certificate(settings)
        needs_keys = app.state.keys.required()
    except (SettingsError, KeysError) as error:
        return _fail(str(error), 2)
    try:
        listener = _listen(settings, needs_keys=needs_keys)
    except _NotLocalError as error:
        return _fail(str(error), 2)
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
        app,
        http=BoundedConnection,
        ws="none",
        log_config=_LOGGING,
        # The service has its own, with the ids of requests and without queries.
        access_log=False,
        server_header=False,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    scheme = "http" if settings.ssl_certfile is None else "https"
    server = _Server(config, f"{scheme}://{url_host}:{bound_port}")
    if until_stdin_closes:
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
    server.run(sockets=[listener])
    return 0


def _listen(settings: Settings, *, needs_keys: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if not (needs_keys or settings.open or is_loopback(str(address[0]))):
        raise _NotLocalError(
            f"cannot serve other machines on {settings.host} without keys: add one (python -m"
            " generator_service keys add), leave out --host and GENERATOR_HOST, or set"
            " GENERATOR_OPEN=true to let everyone in who reaches it."
        )
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _require_certificate(settings: Settings) -> None:
    """Raise SettingsError when the certificate and its key cannot be used."""
    if settings.ssl_certfile is None:
        return

    def no_password() -> str:
        raise SettingsError(
            "GENERATOR_SSL_KEYFILE cannot be used: it needs a password; write the key without one."
        )

    for name in ("ssl_certfile", "ssl_keyfile"):
        if (path := getattr(settings, name)) is not None:
            try:
                path.open("rb").close()
            except OSError as error:
                raise SettingsError(
                    f"GENERATOR_{name.upper()}={path} cannot be used: {error.strerror}."
                ) from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.ssl_certfile, settings.ssl_keyfile, no_password
        )
    except ssl.SSLError as error:
        raise SettingsError(
            f"GENERATOR_SSL_CERTFILE={settings.ssl_certfile} cannot be used"
            f" ({error.reason or 'no PEM, or no key'}): name a certificate in PEM, and its key in"
            " GENERATOR_SSL_KEYFILE or in the same file."
        ) from None


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"generator_service: {message}\n")
    return code
