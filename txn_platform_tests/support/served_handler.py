"""Serves requests by a handler of `http.server`, in a thread of the test's process."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler


@contextmanager
def served_by(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of the loopback interface, and print nothing; yield the address."""

    class Quiet(handler):
        # Else the body waits until the client has acknowledged the head, 40 ms for each answer.
        disable_nagle_algorithm = True

        @override
        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        @override
        def handle_error(self, request: Any, client_address: Any) -> None:
            # Tests and benchmarks kill clients.
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    with Server(("127.0.0.1", 0), Quiet) as server:
        # It looks after each so many seconds whether it is to end.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
