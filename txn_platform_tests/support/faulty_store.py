"""A proxy in front of an S3 that injects one fault into one kind of request, for a while or always.

The tests choose the fault and its number, and check the result.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import Counter
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable


class Operation(StrEnum):
    CREATE = "create"
    PART = "upload part"
    COMPLETE = "complete"
    ABORT = "abort"
    UPLOADS = "list uploads"
    LIST = "list"
    PUT = "put"
    GET = "get"
    HEAD = "head"
    DELETE = "delete"
    DELETE_VERSION = "delete a version"
    VERSIONS = "list versions"
    VERSIONING = "ask whether versions are kept"
    OTHER = "another request"
    ENCRYPTION = "ask for the encryption"


class Fault(StrEnum):
    """The fault of a request; only a request whose answer is cut reaches the store."""

    TOO_MANY = "429"
    BROKEN = "500"
    SLOW_DOWN = "503"
    RESET = "reset"
    STALL = "stall"
    CUT = "cut"
    DENIED = "403 AccessDenied"
    EXPIRED = "400 ExpiredToken"
    SKEWED = "403 RequestTimeTooSkewed"
    GONE = "404 NoSuchBucket"
    NO_LENGTH = "411 MissingContentLength"
    UNKNOWN = "501 NotImplemented"
    ABORTED = "404 NoSuchUpload"
    EXISTS = "412 PreconditionFailed"
    # The store answers 200 without doing it.
    LOST = "lost"


_CODES = {"429": "SlowDown", "500": "InternalError", "503": "SlowDown"}


class FaultyStore:
    """A proxy on 127.0.0.1; a context manager.

    Attributes:
        url: its address.
        seen: the requests that have arrived, by operation.
        before: a function that is called once, before a request of an operation is passed on.
        after: the same after it was passed on, before its answer is.
        refuses_checksums: answers 501 to every request with a checksum of S3's.
        hosts: that requests were addressed to.
        check_then_write: seconds between the check of If-None-Match, which is made here, and the
            write, which has no condition any more; None passes conditions on. The upstream must
            not verify signatures, as moto does not.
        if_match: how If-Match is compared, here, with the object's ETag: `quoted` as HTTP has it,
            or `bare`, without its quotes. None passes it on.
        ignores: conditions that the store does not look at.
    """

    def __init__(self, upstream: str) -> None:
        self.seen: Counter[Operation] = Counter()
        self.before: dict[Operation, Callable[[], object]] = {}
        self.after: dict[Operation, Callable[[], object]] = {}
        self.refuses_checksums = False
        self.hosts: set[str] = set()
        self.check_then_write: float | None = None
        self.if_match: Literal["quoted", "bare"] | None = None
        self.ignores: frozenset[str] = frozenset()
        self._faults: dict[Operation, tuple[Fault, int | None, int]] = {}
        self._lock = threading.Lock()
        store = self
        host = urlsplit(upstream).netloc

        class Handler(_Handler):
            def handle_request(self) -> None:
                store.handle(self, host)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket.listen(128)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(
        self, operation: Operation, fault: Fault, times: int | None = None, *, after: int = 0
    ) -> None:
        """Make requests fail from now on, or after some; so many times, None is always."""
        self._faults[operation] = (fault, times, after)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def refusal(self, upstream: str, request: BaseHTTPRequestHandler, body: bytes) -> bytes:
        """The answer to a request that this store refuses; empty if it does not."""
        del body
        if self._condition_fails(upstream, request, _operation(request.command, request.path)):
            return _refusal(Fault.EXISTS, head=False)
        return b""

    def hides(self) -> frozenset[str]:
        """How the names of headers begin that are left out of answers, in lower case."""
        return frozenset()

    def handle(self, request: _Handler, upstream: str) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        operation = _operation(request.command, request.path)
        fault, before, after = self._plan(operation, request)
        if before:
            before()
        if fault is Fault.STALL:
            # Until the client closes the connection.
            request.connection.settimeout(60)
            request.connection.recv(1)
        elif fault is Fault.RESET:
            request.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            request.connection.close()
        elif fault is Fault.LOST:
            request.connection.sendall(
                b'HTTP/1.1 200 OK\r\nETag: "d41d8cd98f00b204e9800998ecf8427e"\r\n'
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
        elif fault is not None and fault is not Fault.CUT:
            request.connection.sendall(_refusal(fault, head=operation is Operation.HEAD))
        elif refusal := self.refusal(upstream, request, body):
            request.connection.sendall(refusal)
        else:
            if self.check_then_write is not None and request.headers.get("If-None-Match"):
                time.sleep(self.check_then_write)
                del request.headers["If-None-Match"]
            head, content = _forward(upstream, request, body, self.hides())
            if after:
                after()
            if fault is Fault.CUT:
                # Without a body, in the middle of a value that could pass for the whole.
                middle = head.lower().find(b"etag: ") + 12
                answer = head + content[: len(content) // 2] if content else head[:middle]
            else:
                answer = head + content
            request.connection.sendall(answer)

    def _condition_fails(
        self, upstream: str, request: BaseHTTPRequestHandler, operation: Operation
    ) -> bool:
        """Whether a condition that this store checks does not hold; ignored ones are removed."""
        for name in self.ignores:
            del request.headers[name]
        if operation is not Operation.PUT:
            return False
        if self.check_then_write is not None and _is_there(upstream, request):
            return True
        wanted = request.headers["If-Match"]
        if self.if_match is None or wanted is None:
            return False
        del request.headers["If-Match"]
        etag = described(upstream, request).headers["ETag"]
        return wanted != (etag.strip('"') if self.if_match == "bare" else etag)

    def _plan(self, operation: Operation, request: _Handler) -> tuple[Fault | None, Any, Any]:
        names = {name.lower() for name in request.headers}
        with self._lock:
            self.seen[operation] += 1
            self.hosts.add(request.headers["Host"])
            if self.refuses_checksums and any("checksum" in name for name in names):
                return Fault.UNKNOWN, None, None
            fault, times, after = self._faults.get(operation, (None, None, 0))
            if fault is not None and after:
                self._faults[operation] = (fault, times, after - 1)
                fault = None
            elif fault is not None and times is not None:
                self._faults[operation] = (fault, times - 1, 0)
                if times <= 1:
                    del self._faults[operation]
            return fault, self.before.pop(operation, None), self.after.pop(operation, None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        raise NotImplementedError

    def _one(self) -> None:
        self.close_connection = True
        try:
            self.handle_request()
        except OSError:
            # The client, or the test, has gone.
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _one  # noqa: N815 - the library's names

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            return

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _operation(method: str, path: str) -> Operation:
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    # The first match: by method, then by a parameter that only such a request has.
    found = (
        operation
        for of, name, operation in (
            ("POST", "uploads", Operation.CREATE),
            ("POST", "uploadId", Operation.COMPLETE),
            ("PUT", "partNumber", Operation.PART),
            ("PUT", None, Operation.PUT),
            ("DELETE", "uploadId", Operation.ABORT),
            ("DELETE", "versionId", Operation.DELETE_VERSION),
            ("DELETE", None, Operation.DELETE),
            ("POST", "delete", Operation.DELETE),
            ("HEAD", None, Operation.HEAD),
            ("GET", "uploads", Operation.UPLOADS),
            ("GET", "list-type", Operation.LIST),
            ("GET", "versions", Operation.VERSIONS),
            ("GET", "versioning", Operation.VERSIONING),
            ("GET", "encryption", Operation.ENCRYPTION),
            ("GET", None, Operation.GET),
        )
        if method == of and (name is None or name in query)
    )
    return next(found, Operation.OTHER)


def _refusal(fault: Fault, *, head: bool) -> bytes:
    status, _, code = fault.partition(" ")
    code = code or _CODES[status]
    body = b"" if head else f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return (
        f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
        "\r\nDate: Tue, 24 Nov 2026 06:00:00 GMT\r\nConnection: close\r\n\r\n"
    ).encode() + body


def _is_there(upstream: str, request: BaseHTTPRequestHandler) -> bool:
    """Whether a PUT that requires that there is no object finds one."""
    if not request.headers.get("If-None-Match"):
        return False
    return described(upstream, request).status == http.client.OK


def described(upstream: str, request: BaseHTTPRequestHandler) -> http.client.HTTPResponse:
    """The store's answer to a HEAD of the object of a request."""
    connection = http.client.HTTPConnection(upstream, timeout=60)
    try:
        connection.request(
            "HEAD", request.path, headers={"Authorization": request.headers["Authorization"]}
        )
        return connection.getresponse()
    finally:
        connection.close()


def _forward(
    upstream: str, request: _Handler, body: bytes, hidden: frozenset[str]
) -> tuple[bytes, bytes]:
    """Return the store's answer, as it goes over the wire: its head and its body.

    Headers whose names begin as one of `hidden` are left out.
    """
    connection = http.client.HTTPConnection(upstream, timeout=60)
    try:
        connection.putrequest(
            request.command, request.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in request.headers.items():
            if name.lower() not in {"connection", "expect"}:
                connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        content = answer.read()
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}
            and not name.lower().startswith(tuple(hidden))
        }
        length = len(content)
        if request.command == "HEAD":
            length = int(answer.getheader("Content-Length") or 0)
        lines = [
            f"HTTP/1.1 {answer.status} {answer.reason}",
            *(f"{name}: {value}" for name, value in headers.items()),
            f"Content-Length: {length}",
            "Connection: close",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), content
    finally:
        connection.close()
