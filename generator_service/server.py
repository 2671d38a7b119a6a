"""The service on a socket, from start to stop.

It opens the socket, prints one line with the address, and ends on a signal. `app.py` has the
routes, `settings.py` the settings.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, override

import uvicorn

from generator_service import standard_output
from generator_service.access import is_loopback
from generator_service.computations import keep_little_memory
from generator_service.connections import BoundedConnection
from generator_service.keys import KeysError
from generator_service.settings import Settings, SettingsError
from generator_service.workers import Workers, share_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fastapi import FastAPI

# For programs that start a service of their own.
_LOCAL = {"host": "127.0.0.1", "ssl_certfile": None, "ssl_keyfile": None}
# Seconds that responses have to finish when the service stops.
_GRACE = 1
# Of prometheus_client.
_METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
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
    """A server that tells when it is ready, and always stops."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

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
    with ExitStack() as ending:
        try:
            settings = Settings.load(**given)
            if settings.workers > 1:
                ending.enter_context(_metrics_of_several())
            # prometheus_client looks for that directory when it is imported.
            from generator_service.app import create_app

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
        # Before the population is made.
        keep_little_memory()
        if settings.workers > 1:
            return _serve_in_workers(app, listener, settings, until_stdin_closes=until_stdin_closes)
        server = _Server(
            _configuration(app, settings), partial(_announce_address, listener, settings)
        )
        if until_stdin_closes:
            threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
        server.run(sockets=[listener])
    return 0


def _serve_in_workers(
    app: FastAPI, listener: socket.socket, settings: Settings, *, until_stdin_closes: bool
) -> int:
    from generator_service.metrics import forget_process
    from generator_service.source import Source, clock

    # Made once, and shared by all processes.
    app.state.source = Source(settings, clock)
    share_memory()

    def work(tell_ready: Callable[[], None]) -> None:
        _Server(_configuration(app, settings), tell_ready).run(sockets=[listener])

    def on_end(pid: int) -> None:
        forget_process(pid)
        sys.stderr.write(f"generator_service: the worker process {pid} has ended\n")

    return Workers(
        work,
        on_ready=partial(_announce_address, listener, settings),
        on_end=on_end,
        on_orphaned=partial(shutil.rmtree, os.environ[_METRICS_DIRECTORY], ignore_errors=True),
    ).run(settings.workers, until_stdin_closes=until_stdin_closes)


@contextmanager
def _metrics_of_several() -> Generator[None]:
    """Let prometheus_client add up the metrics of several processes, by files in a directory."""
    with TemporaryDirectory(prefix="generator-metrics-", ignore_cleanup_errors=True) as directory:
        # prometheus_client takes it from nowhere else.
        os.environ[_METRICS_DIRECTORY] = directory
        try:
            yield
        finally:
            del os.environ[_METRICS_DIRECTORY]


def _configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
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


def _announce_address(listener: socket.socket, settings: Settings) -> None:
    host, port = listener.getsockname()[:2]
    url_host = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.ssl_certfile is None else "https"
    _announce(f"generator_service listening on {scheme}://{url_host}:{port}")


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
