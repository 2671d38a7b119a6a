"""Responses that are computed: a page of JSON, a stream in another format, a document.

A response waits for its turn, and its computation ends when the client leaves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, override

import anyio
from anyio import to_thread
from fastapi import Response
from starlette.responses import StreamingResponse

from generator_service import wire
from generator_service.computations import SMALL_ROWS, Computation, Computations, Stopped, busy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    import pyarrow as pa
    from starlette.types import Message, Receive, Scope, Send

    from generator_service.defects import DefectInjector
    from generator_service.models import Generator

# Chunks of 1 to 8 MB that are made before the client reads them.
_PREFETCHED_CHUNKS = 4
# A larger body is sent in parts, so that its turn lasts until the client has read it.
_PART_BYTES = 2**22


class Computed(Response):
    """A response that threads compute when its turn comes, and that ends with its client.

    The turn of a large answer lasts until its last bytes are sent: its memory is held so long.

    Args:
        computations: gives the turn.
        rows: that are computed, at the most.
        compute: returns the response; `rows` above SMALL_ROWS may still be made while it is sent.
    """

    def __init__(
        self,
        computations: Computations,
        rows: int,
        compute: Callable[[Computation], Response],
    ) -> None:
        super().__init__()
        self._computations = computations
        self._rows = rows
        self._compute = compute

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; RequestError when it must not be computed now (503)."""
        seconds = self._computations.seconds
        computation = Computation(seconds)
        gone = anyio.Event()
        begun = False
        failure: Exception | None = None

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            computation.end()
            gone.set()
            group.cancel_scope.cancel()

        async def receive_end() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as group:
                    group.start_soon(watch)
                    try:
                        await self._answer(computation, scope, receive_end, send_noting)
                    except Stopped:
                        pass
                    except Exception as error:
                        failure = error
                    group.cancel_scope.cancel()
        finally:
            computation.end()
        if failure is not None:
            raise failure
        if not begun and not gone.is_set():
            raise busy(f"the answer takes longer than {seconds:g} s")

    async def _answer(
        self, computation: Computation, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async with self._computations.turn(self._rows):
            # Turns bound these threads, which take none from the other requests.
            own = anyio.CapacityLimiter(1)
            response = await to_thread.run_sync(self._compute, computation, limiter=own)
            if self._rows > SMALL_ROWS:
                await response(scope, receive, send)
                return
        await response(scope, receive, send)


@dataclass(frozen=True)
class Answer:
    """The rows that a request asks for; no batch is made before it is needed.

    Attributes:
        form: the format of the body.
        types: whether Arrow and Parquet get typed columns or text.
        schema: the schema of the batches.
        batches: the rows.
        total: the number of rows on all pages; None when it is not known yet.
        around: the fields beside the rows in JSON; `next` is the address of the next page.
        injector: injects defects into the rows.
        counted: yields the rows unchanged, and counts them as they are sent.
        is_small: it is made at once; others are made while they are sent.
    """

    form: wire.Format
    types: wire.Types
    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    total: int | None
    around: dict[str, str | None]
    injector: DefectInjector | None = None
    counted: Callable[[Iterable[Any]], Iterable[Any]] | None = None
    is_small: bool = False


def respond(
    answer: Answer,
    generator: Generator,
    count_rows: Callable[[int], None],
    *,
    head_only: bool = False,
) -> Response:
    """Return the response with the rows, which are counted; for the head alone no row is made."""
    headers = _headers(answer)
    if head_only:
        return bodiless(wire.MEDIA_TYPES[answer.form], headers)
    batches, schema = _as_sent(answer)
    batches = _reported(batches, count_rows)
    if answer.form is wire.Format.JSON:
        items = [b"[", wire.json_items(batches), b"]"]
        return json_response(items, answer.around | {"generator": generator.model_dump()}, headers)
    chunks = wire.encode(batches, wire.named(schema, generator.configuration), answer.form)
    media_type = wire.MEDIA_TYPES[answer.form]
    if answer.is_small:
        return Response(b"".join(chunks), headers=headers, media_type=media_type)
    return _Stream(chunks, headers=headers, media_type=media_type)


def json_response(
    data: Sequence[bytes], around: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    """Return a JSON object with data that is JSON already, and the fields beside it."""
    after = json.dumps(around, separators=(",", ":")).encode()[1:]
    # Joined once: a page has megabytes.
    content = b"".join([b'{"data":', *data, b",", after])
    return _Parts(content, headers=headers, media_type="application/json")


def bodiless(media_type: str, headers: dict[str, str] | None = None) -> Response:
    """Return a head alone, without the length of the body (RFC 9110, 9.3.2)."""
    return StreamingResponse(iter(()), headers=headers, media_type=media_type)


def _headers(answer: Answer) -> dict[str, str]:
    headers = {"Vary": "Accept"}
    if answer.total is not None:
        headers["X-Total-Rows"] = str(answer.total)
    if following := answer.around.get("next"):
        headers["Link"] = f'<{following}>; rel="next"'
    return headers


def _as_sent(answer: Answer) -> tuple[Iterable[pa.RecordBatch | wire.Mixed], pa.Schema]:
    """Return the batches that the format writes, and their schema."""
    injector, form = answer.injector, answer.form
    if injector is not None and injector.alters:
        return _counted(answer, injector.batches(answer.batches, form)), injector.schema
    batches = _counted(answer, answer.batches)
    if answer.types is wire.Types.TEXT or form in {wire.Format.JSON, *wire.LINES}:
        return wire.text_batches(batches), wire.text_schema(answer.schema)
    return batches, answer.schema


def _counted(answer: Answer, batches: Iterable[Any]) -> Iterable[Any]:
    return batches if answer.counted is None else answer.counted(batches)


def _reported(
    batches: Iterable[pa.RecordBatch | wire.Mixed], count_rows: Callable[[int], None]
) -> Iterator[pa.RecordBatch | wire.Mixed]:
    for batch in batches:
        yield batch
        count_rows(batch.num_rows)


class _Parts(Response):
    """A body in memory that is sent in parts, each when the client has read most of the last."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        body = memoryview(self.body)
        for at in range(0, len(body) or 1, _PART_BYTES):
            more = at + _PART_BYTES < len(body)
            part = body[at : at + _PART_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": more})


class _Stream(StreamingResponse):
    """A body whose next chunks a thread makes while the client reads.

    An error breaks the connection, because the last chunk is then never sent. The response ends
    with its thread, which goes no further than the next checkpoint when the client has left.
    """

    def __init__(
        self, chunks: Iterator[memoryview], *, headers: dict[str, str], media_type: str
    ) -> None:
        self._chunks = chunks
        super().__init__((), headers=headers, media_type=media_type)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chunks = wire.Prefetch(self._chunks, _PREFETCHED_CHUNKS)
        # Frees the rows with the thread.
        del self._chunks
        own = anyio.CapacityLimiter(1)
        try:
            self.body_iterator = _take(chunks, own)
            await super().__call__(scope, receive, send)
        finally:
            chunks.close()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(chunks.thread.join, limiter=own)


async def _take(
    chunks: Iterator[memoryview], limiter: anyio.CapacityLimiter
) -> AsyncIterator[memoryview]:
    while True:
        chunk = await to_thread.run_sync(
            next, chunks, None, abandon_on_cancel=True, limiter=limiter
        )
        if chunk is None:
            return
        yield chunk
