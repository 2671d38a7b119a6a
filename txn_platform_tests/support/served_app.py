"""Serves an ASGI app over a socket, in a thread of the test's process; plain connections to it."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import uvicorn

from txn_platform_tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp


@contextmanager
def served_app(app: ASGIApp, **options: Any) -> Iterator[str]:
    """Serve the app on a free port of the loopback interface; yield its address.

    `options` are of `uvicorn.Config`.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # An idle connection that the server closes while the next test uses it is reset.
        config = uvicorn.Config(
            app,
            log_level="critical",
            timeout_keep_alive=600,
            timeout_graceful_shutdown=1,
            **options,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert eventually(lambda: server.started)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    """A plain connection to the server at an address, closed with the block."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as client:
        yield client


@contextmanager
def left_open(url: str, path: str, **parameters: str) -> Iterator[socket.socket]:
    """A request whose answer is not read; its client leaves with the block."""
    with connection(url) as client:
        head = f"GET {path}?{urlencode(parameters)} HTTP/1.1\r\nHost: here\r\n\r\n"
        client.sendall(head.encode())
        yield client
