"""Serves an ASGI app over a socket, in a thread of the test's process."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from txn_platform_tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp


@contextmanager
def served_app(app: ASGIApp) -> Iterator[str]:
    """Serve the app on a free port of the loopback interface; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        # An idle connection that the server closes while the next test uses it is reset.
        config = uvicorn.Config(
            app, log_level="critical", timeout_keep_alive=600, timeout_graceful_shutdown=1
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
