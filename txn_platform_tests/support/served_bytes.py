"""A source that answers with the bytes a test gives, head and framing included."""

from __future__ import annotations

import socketserver
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, override

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class ServedBytes:
    """A source on a free port.

    Attributes:
        answer: the whole answer to a target, as `/tx?page=2`; the connection is closed behind it.
        asked: the targets that were requested.
        url: its address.
    """

    answer: Callable[[str], bytes]
    asked: list[str] = field(default_factory=list[str])
    url: str = ""


@contextmanager
def served_bytes(answer: Callable[[str], bytes]) -> Iterator[ServedBytes]:
    """Serve it on the loopback interface."""
    source = ServedBytes(answer)

    class Handler(socketserver.StreamRequestHandler):
        @override
        def handle(self) -> None:
            # The client goes when it has seen enough.
            with suppress(OSError, IndexError):
                target = self.rfile.readline().split()[1].decode()
                while self.rfile.readline().strip():
                    pass
                source.asked.append(target)
                # Without this a client would use the connection again until it sees it closed.
                close = b"\r\nConnection: close\r\n"
                self.wfile.write(source.answer(target).replace(b"\r\n", close, 1))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        source.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield source
        finally:
            server.shutdown()
            thread.join()


def head(*headers: str, status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    """A status line and header lines."""
    return "\r\n".join([f"{version} {status}", *headers, "", ""]).encode("latin-1")


def whole(content: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An answer with its length."""
    return head(f"Content-Length: {len(content)}", *headers, status=status) + content


def chunked(content: bytes, *headers: str, size: int = 100) -> bytes:
    """An answer in chunks of a size."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head("Transfer-Encoding: chunked", *headers) + chunks + b"0\r\n\r\n"
