"""HTTP connections with bounds: on a request's head and body, and on the time of both sides.

uvicorn has no such bounds for httptools. `server.py` uses this class; with plain uvicorn it takes
`--http generator_service.connections:BoundedConnection`, or a proxy in front that has such bounds.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NoReturn, cast, override

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

ADDRESS_BYTES = 16_384
"""The longest address in a request line; a cursor may be in it."""

HEAD_BYTES = 65_536
"""The longest head of a request."""

BODY_BYTES = 65_536
"""The longest body of a request, with its chunks' sizes and its trailers; no route reads one."""

HEAD_SECONDS = 10.0
"""How long a head may take, from its first byte, or from the connection on."""

STALL_SECONDS = 15.0
"""How long a client may read fewer than STALL_BYTES of what is ready for it."""

STALL_BYTES = 65_536

_MOST_PIPELINED = 16
REASONS = {
    HTTPStatus.REQUEST_URI_TOO_LONG: f"An address has at most {ADDRESS_BYTES:,} bytes.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"A head has at most {HEAD_BYTES:,} bytes.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"A body has at most {BODY_BYTES:,} bytes.",
    HTTPStatus.TOO_MANY_REQUESTS: f"At most {_MOST_PIPELINED} requests may wait on a connection.",
}
"""The bounds of a request, by the status of those beyond one."""


class _Refused(Exception):  # noqa: N818 - the parser wraps it in its own error
    """The request goes beyond a bound."""


class BoundedConnection(HttpToolsProtocol):
    """A connection that refuses large requests, and ends when its client is too slow."""

    _answered: RequestResponseCycle | None = None
    _refusal = HTTPStatus.BAD_REQUEST
    _head_bytes = 0
    _body_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_expecting()
        self._stop_watching()
        super().connection_lost(exc)
        # uvicorn tells only the request that came last.
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    # The request

    @override
    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        else:
            self._body_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > HEAD_BYTES:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.send_400_response("")
        elif not self._in_head and self._body_bytes > BODY_BYTES:
            self._refusal = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            self.send_400_response("")
        elif self._is_idle():
            # After an answer these bytes are of the next head, or of a body that nobody reads.
            self._expect_head()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._body_bytes = 0

    @override
    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > ADDRESS_BYTES:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come after the body, and are no headers (RFC 9110, 6.5.1).
        if self._in_head:
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        lengths = [value for name, value in self.headers if name == b"content-length"]
        if lengths and int(lengths[0]) > BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS)
        self._in_head = False
        self._head_bytes = 0
        self._stop_expecting()
        super().on_headers_complete()
        # uvicorn reads no further until pipelined requests are answered, and would not notice that
        # the client leaves.
        self.flow.resume_reading()

    @override
    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def _refuse(self, status: HTTPStatus) -> NoReturn:
        self._refusal = status
        raise _Refused

    @override
    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refuses, or what goes beyond a bound, and close."""
        status = self._refusal
        # An answer that has begun can only be broken off.
        if self._is_idle():
            text = f"{status.phrase}. {REASONS.get(status, msg)}"
            head = f"content-type: text/plain; charset=utf-8\r\ncontent-length: {len(text)}\r\n"
            answer = f"{head}connection: close\r\n\r\n{text}".encode()
            self.transport.write(STATUS_LINE[status] + answer)
        self._close()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _is_idle(self) -> bool:
        """Whether no request waits for the end of its answer."""
        # uvicorn's annotation leaves out that there is none before the first request.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop_expecting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # The answer

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writing()

    @override
    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_writing()

    def _close(self) -> None:
        """Close the connection when the client has read what is ready, or stops reading."""
        self.transport.close()
        self._watch_writing()

    def _watch_writing(self) -> None:
        if self._stall_timer is None:
            self._require_progress(None)

    def _stop_watching(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _require_progress(self, before: int | None) -> None:
        """Break off when the client has read little since the buffer had so many bytes."""
        left = self.transport.get_write_buffer_size()
        if before is not None and before - left < STALL_BYTES:
            self.transport.abort()
            return
        self._stall_timer = self.loop.call_later(STALL_SECONDS, self._require_progress, left)
