"""moto's S3 on 127.0.0.1, one request at a time; `conftest.py` starts it as a process.

moto checks the condition of a write, and writes later. In between, another thread of it may write
too, or free the object that a third one reads. A lake needs a store that does neither.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def one_at_a_time(app: WSGIApplication) -> WSGIApplication:
    """The application, for one request at a time, which begins when its body has arrived."""
    lock = threading.Lock()

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Not within the lock: a client that sends half a body would stop all others.
        chunked = environ.get("wsgi.input_terminated")
        size = -1 if chunked else int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(size))
        with lock:
            return app(environ, start_response)

    return call


if __name__ == "__main__":
    run_simple(
        "127.0.0.1",
        0,
        one_at_a_time(create_backend_app("s3")),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
