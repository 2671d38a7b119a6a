"""A proxy that injects transport faults into a share of the requests to any server.

It knows connections and which side sends next, and of HTTP only how to answer 503, so that it works
in front of a source and of an S3. A fault that a single test needs belongs in that test.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, override
from urllib.parse import urlsplit

from txn_platform_tests.support.listener import Listener

if TYPE_CHECKING:
    import random

_STALL_SECONDS: Final = 0.5
_LONGEST_CUT: Final = 40_000
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)
_AS_OF: Final = re.compile(rb"as_of=[^& ]+")


class FaultyProxy(Listener):
    """Listens on a free port of 127.0.0.1 until its block ends.

    Args:
        upstream: the URL that it passes requests on to.
        rate: the share of requests that get a fault, each kind as often as the others.
        chance: decides which.

    Attributes:
        url: its own address.
        as_of: what every request's `as_of` becomes, as a URL has it; None leaves them as they are.
        faults: how many of each kind there were; `none` counts the requests that got through.
    """

    KINDS: Final = ("refused", "reset", "cut", "stalled")

    def __init__(self, upstream: str, rate: float, chance: random.Random) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._rate = rate
        self._chance = chance
        self.as_of: str | None = None
        self.faults: Counter[str] = Counter()
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    @override
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(*self._upstream)
        connection = _Connection(reader, writer, answers, requests)
        await connection.relay(self)

    def fault(self) -> str:
        """Return the fault of the next request."""
        kind = self._chance.choice(self.KINDS) if self._chance.random() < self._rate else "none"
        self.faults[kind] += 1
        return kind

    def length_of_cut(self) -> int:
        """Return after how many bytes an answer ends."""
        return self._chance.randrange(1, _LONGEST_CUT)

    def spoken_to(self, request: bytes) -> bytes:
        """Return a request, or the rest of one that came in pieces, as it is passed on."""
        return _AS_OF.sub(f"as_of={self.as_of}".encode(), request) if self.as_of else request


class _Connection:
    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._answers, self._requests = answers, requests
        self._answered = True
        self._left: int | None = None

    async def relay(self, proxy: FaultyProxy) -> None:
        down = asyncio.create_task(self._down())
        up = asyncio.create_task(self._up(proxy))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            self._requests.close()

    async def _up(self, proxy: FaultyProxy) -> None:
        while chunk := await self._reader.read(1 << 16):
            if self._answered:
                # Bytes from the client after an answer begin a new request.
                self._answered = False
                match proxy.fault():
                    case "refused":
                        self._writer.write(_REFUSAL)
                        await self._writer.drain()
                        return
                    case "reset":
                        self._reset()
                        return
                    case "cut":
                        self._left = proxy.length_of_cut()
                    case "stalled":
                        await asyncio.sleep(_STALL_SECONDS)
                    case _:
                        pass
            self._requests.write(proxy.spoken_to(chunk))
            await self._requests.drain()

    async def _down(self) -> None:
        while chunk := await self._answers.read(1 << 16):
            self._answered = True
            if self._left is not None:
                chunk = chunk[: self._left]
                self._left -= len(chunk)
            self._writer.write(chunk)
            await self._writer.drain()
            if self._left == 0:
                self._reset()
                return

    def _reset(self) -> None:
        """End the connection with a reset instead of an end."""
        end: socket.socket = self._writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
