"""Faults of the transport on request: errors, delays, bodies that break off or are corrupted.

Defects of rows are in `defects`.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response

from generator_service.models import FieldError, Problem, RequestError, nearest, refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NOT_ALLOWED = ("faults-not-allowed", "This service injects no faults on request")
HEADER = "X-Generator-Faults"
"""The header of a request for faults."""

BY_HEADER = "header"
"""The setting that allows faults by header, and causes none itself."""

# Kinds.

_LONGEST_WAIT = 3_600
_KINDS: dict[str, tuple[str, tuple[float, float], float | None]] = {
    "status": ("returns that status, 400 to 599, and no rows", (400, 599), None),
    "retry_after": ("goes with `status`: its Retry-After, in seconds", (0, _LONGEST_WAIT), None),
    "latency": ("responds that many seconds later", (0, _LONGEST_WAIT), None),
    "stall": ("sends that many bytes of the body, then nothing more", (0, 2**40), 0),
    "reset": (
        "sends that many bytes of the body, then resets the connection; 0: before the status line",
        (0, 2**40),
        0,
    ),
    "cut": ("sends that many bytes of the body, then closes the connection", (0, 2**40), 0),
    "length": (
        "has a Content-Length that many bytes too large (negative: small); of 64 MiB at the most",
        (-(2**40), 2**40),
        None,
    ),
    "garbage": ("has 64 bytes of garbage after that many bytes", (0, 2**40), 0),
}
_WAITS = ("latency", "retry_after")
_BREAKS = ("stall", "reset", "cut")
_GARBAGE_BYTES = 64
# A body must be complete before its length is known.
_MISSTATED_BYTES = 2**26


def page_of_kinds() -> str:
    """Return how to ask for faults, in Markdown, with a table of all kinds."""
    rows = "\n".join(f"| `{kind}` | {meaning} |" for kind, (meaning, _, _) in _KINDS.items())
    return f"""\
Causes faults of the transport of this response: `kind=value`, several separated by commas. A suffix
says which requests get it: `:0.1`, a tenth of them; `:first2`, the first two attempts of each
request, so that the third succeeds; without a suffix, all of them. For example,
`status=503:first2,retry_after=1`. Overrides GENERATOR_FAULTS, and is refused with status 403 unless
that is set. An empty value asks for no faults.

| kind | the response |
| --- | --- |
{rows}
"""


def describe(openapi: dict[str, Any], setting: str) -> None:
    """Add the header to every route of an OpenAPI description, and the statuses of faults."""
    parameter = {
        "name": HEADER,
        "in": "header",
        "required": False,
        "description": page_of_kinds(),
        # No example: a page of documentation would send it with every request.
        "schema": {"type": "string"},
    }
    for path in openapi["paths"].values():
        for operation in path.values():
            operation.setdefault("parameters", []).append(parameter)
            if setting.strip():
                operation["responses"]["default"] = {"description": "A fault"}


# The faults that a request asks for.


@dataclass(frozen=True)
class Fault:
    """A kind of fault, and the requests that get it.

    Attributes:
        kind: its name.
        value: seconds, bytes or a status, by kind.
        rate: the share of the attempts that get it.
        tries: the number of first attempts of each request that get it; None for all.
    """

    kind: str
    value: float
    rate: float = 1.0
    tries: int | None = None


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Read `kind=value:when,...`; see `page_of_kinds`.

    Raises:
        ValueError: the text cannot be read; the message says what to write instead.
    """
    faults = tuple(_parsed(part.strip()) for part in text.split(",") if part.strip())
    kinds = [fault.kind for fault in faults]
    if "retry_after" in kinds and "status" not in kinds:
        raise ValueError("status=503 beside retry_after")
    return faults


def parse_setting(text: str) -> tuple[Fault, ...]:
    """Read the setting: faults, or the permission to ask for them by header."""
    return () if text.strip() == BY_HEADER else parse_faults(text)


def _parsed(part: str) -> Fault:
    asked, colon, when = part.partition(":")
    kind, equals, written = asked.partition("=")
    if kind not in _KINDS:
        known = f"one of {', '.join(_KINDS)},"
        raise ValueError(f"{nearest(kind, _KINDS, known)} instead of {kind!r}")
    _, (least, most), default = _KINDS[kind]
    number = r"[0-9]{1,9}(\.[0-9]{1,6})?" if kind in _WAITS else r"-?[0-9]{1,13}"
    if not equals and default is not None:
        value = default
    elif re.fullmatch(number, written) and least <= float(written) <= most:
        value = float(written)
    else:
        raise ValueError(f"{kind}= with a number from {least:.0f} to {most:.0f}")
    if not colon:
        return Fault(kind, value)
    if first := re.fullmatch(r"first([0-9]{1,6})", when):
        return Fault(kind, value, tries=int(first[1]))
    if re.fullmatch(r"[0-9]*\.?[0-9]{1,9}", when) and float(when) <= 1:
        return Fault(kind, value, rate=float(when))
    raise ValueError(
        f"{kind} with the share of requests that get it, as in :0.1, or their first attempts, as in"
        " :first2"
    )


# The middleware that causes them.

_REQUESTS_REMEMBERED = 10_000
# Only a header causes faults here: these show whether the service is up, or are pages for people.
_SPARED = re.compile(r"/|/healthz|/docs(/.*)?")


class FaultsMiddleware:
    """Causes faults by the setting of the service, or by the header of a request."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        setting: str,
        seed: int,
        refuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        """`setting` and `seed` are the service's; `refuse` returns the problem of an error."""
        self._app = app
        self._allowed = bool(setting.strip())
        self._faults = parse_setting(setting)
        self._seed = seed
        self._refuse = refuse
        self._tries: OrderedDict[tuple[str, str, str | None], int] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with the faults that are due."""
        # No route has another method, which is refused as such.
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        try:
            faults = self._due(scope)
        except RequestError as error:
            response = await self._refuse(Request(scope), error)
            await response(scope, receive, send)
            return
        if not faults:
            await self._app(scope, receive, send)
            return
        await _with_faults(self._app, faults, scope, receive, send)

    def _due(self, scope: Scope) -> dict[str, float]:
        """Return the faults of this attempt of a request: values by kind."""
        asked = Headers(scope=scope).get(HEADER)
        faults = self._faults
        if asked is not None:
            if not self._allowed:
                expected = f"no such header, or set the service's GENERATOR_FAULTS to {BY_HEADER}"
                error = FieldError(field=HEADER, given=asked, expected=expected)
                raise RequestError(HTTPStatus.FORBIDDEN, error, kind=_NOT_ALLOWED)
            try:
                faults = parse_faults(asked)
            except ValueError as error:
                raise refused(HEADER, asked, str(error)) from None
        elif _SPARED.fullmatch(scope["path"]):
            return {}
        if not faults:
            return {}
        request = (scope["path"], scope["query_string"].decode("latin-1"), asked)
        before = self._tries.pop(request, 0)
        self._tries[request] = before + 1
        if len(self._tries) > _REQUESTS_REMEMBERED:
            self._tries.popitem(last=False)
        return {
            fault.kind: fault.value
            for fault in faults
            if (fault.tries is None or before < fault.tries)
            and (fault.rate == 1 or self._draw(fault, request, before) < fault.rate)
        }

    def _draw(self, fault: Fault, request: object, before: int) -> float:
        """Return a number from 0 to 1, the same for the same attempt of the same request."""
        text = repr((self._seed, fault, request, before))
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) / 2**64


async def _with_faults(
    app: ASGIApp, faults: dict[str, float], scope: Scope, receive: Receive, send: Send
) -> None:
    await anyio.sleep(faults.get("latency", 0))
    connection = _Connection(receive)
    if "status" in faults:
        await _failure(faults)(scope, receive, send)
    elif faults.get("reset") == 0:
        await connection.end(reset=True)
    elif "length" in faults:
        await _Misstated(send, connection, int(faults["length"])).answer(app, scope, receive)
    else:
        await _Broken(send, connection, faults).answer(app, scope, receive)


def _failure(faults: dict[str, float]) -> Response:
    status = int(faults["status"])
    problem = Problem(
        type="/problems/fault",
        title="A fault that was asked for",
        status=status,
        detail=f"The service was asked, by {HEADER} or GENERATOR_FAULTS, to fail like this.",
        errors=[],
    )
    headers = {}
    if "retry_after" in faults:
        headers["Retry-After"] = f"{faults['retry_after']:.0f}"
    return Response(
        problem.model_dump_json(), status, headers=headers, media_type="application/problem+json"
    )


class _Ended(Exception):  # noqa: N818 - it is not an error
    """The response was ended on purpose; unwinds the application."""


class _Connection:
    """The connection of a response, which ASGI cannot break."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        # uvicorn's `receive` is a method of the object that has the transport.
        self.transport: Any = getattr(getattr(receive, "__self__", None), "transport", None)

    async def end(self, *, reset: bool) -> None:
        if self.transport is None:
            raise ConnectionAbortedError("the connection was to end here: a fault was asked for")
        if reset:
            linger = struct.pack("ii", 1, 0)
            plain = self.transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        else:
            self.transport.close()
        await self.gone()

    async def gone(self) -> None:
        """Wait until either side has closed it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class _Broken:
    """A response whose body stalls, breaks off, or contains garbage."""

    def __init__(self, send: Send, connection: _Connection, faults: dict[str, float]) -> None:
        self._send = send
        self._connection = connection
        self._faults = faults
        self._ends = [(int(faults[kind]), kind) for kind in _BREAKS if kind in faults]
        self._sent = 0

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, self._send_faulty)
        except _Ended:
            _, kind = min(self._ends)
            if kind == "stall":
                with anyio.move_on_after(_LONGEST_WAIT):
                    await self._connection.gone()
            else:
                await self._connection.end(reset=kind == "reset")

    async def _send_faulty(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body, start = bytes(message.get("body", b"")), self._sent
        if "garbage" in self._faults:
            body = _with_garbage(body, int(self._faults["garbage"]) - start)
        self._sent += len(body)
        more = message.get("more_body", False)
        # A body that is shorter than the requested length breaks off before its last byte.
        if self._ends and (min(self._ends)[0] <= self._sent or not more):
            part = body[: max(0, min(min(self._ends)[0], self._sent - 1) - start)]
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
            raise _Ended
        await self._send({**message, "body": body})


def _with_garbage(body: bytes, offset: int) -> bytes:
    """Return a chunk with the garbage; `offset`, from its start, may be before or after it."""
    start, stop = (min(max(at, 0), len(body)) for at in (offset, offset + _GARBAGE_BYTES))
    # No byte is ASCII, and no two of them are a valid character of UTF-8.
    garbage = bytes(0xC0 | byte for byte in os.urandom(stop - start))
    return body[:start] + garbage + body[stop:]


class _Misstated:
    """A response with a wrong Content-Length; buffered, because the right one must be known."""

    def __init__(self, send: Send, connection: _Connection, error: int) -> None:
        self._send = send
        self._connection = connection
        self._error = error
        self._start: Message = {}
        self._body = bytearray()

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, self._collect)
        except _Ended:
            await self._connection.end(reset=False)
            return
        stated = max(0, len(self._body) + self._error)
        MutableHeaders(scope=self._start)["Content-Length"] = str(stated)
        await self._send(self._start)
        body = {"type": "http.response.body", "body": bytes(self._body[:stated])}
        await self._send({**body, "more_body": stated > len(self._body)})
        if stated > len(self._body):
            await self._connection.end(reset=False)
        elif self._connection.transport is not None:
            self._connection.transport.write(bytes(self._body[stated:]))

    async def _collect(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if len(self._body) > _MISSTATED_BYTES:
            raise _Ended
