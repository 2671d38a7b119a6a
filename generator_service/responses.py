"""Responses with rows: a page of JSON, or a stream in another format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, override

from anyio import to_thread
from fastapi import Response
from starlette.responses import StreamingResponse

from generator_service import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    import pyarrow as pa
    from starlette.types import Receive, Scope, Send

    from generator_service.defects import DefectInjector
    from generator_service.models import Generator

# Chunks of 1 to 4 MB that are made before the client reads them.
_PREFETCHED_CHUNKS = 4


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
    """

    form: wire.Format
    types: wire.Types
    schema: pa.Schema
    batches: Iterable[pa.RecordBatch]
    total: int | None
    around: dict[str, str | None]
    injector: DefectInjector | None = None
    counted: Callable[[Iterable[Any]], Iterable[Any]] | None = None


def respond(answer: Answer, generator: Generator, *, head_only: bool = False) -> Response:
    """Return the response with the rows; for the head alone no row is made."""
    headers = _headers(answer)
    if head_only:
        return bodiless(wire.MEDIA_TYPES[answer.form], headers)
    batches, schema = _as_sent(answer)
    if answer.form is wire.Format.JSON:
        items = [b"[", wire.json_items(batches), b"]"]
        return json_response(items, answer.around | {"generator": generator.model_dump()}, headers)
    chunks = wire.encode(batches, wire.named(schema, generator.configuration), answer.form)
    return _Stream(chunks, headers=headers, media_type=wire.MEDIA_TYPES[answer.form])


def json_response(
    data: Sequence[bytes], around: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    """Return a JSON object with data that is JSON already, and the fields beside it."""
    after = json.dumps(around, separators=(",", ":")).encode()[1:]
    # Joined once: a page has megabytes.
    content = b"".join([b'{"data":', *data, b",", after])
    return Response(content, headers=headers, media_type="application/json")


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


class _Stream(StreamingResponse):
    """A body whose next chunks a thread makes while the client reads.

    An error breaks the connection, because the last chunk is then never sent. The
    thread ends when the client goes.
    """

    def __init__(
        self, chunks: Iterator[memoryview], *, headers: dict[str, str], media_type: str
    ) -> None:
        self._chunks = chunks
        super().__init__((), headers=headers, media_type=media_type)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with wire.Prefetch(self._chunks, _PREFETCHED_CHUNKS) as chunks:
            self.body_iterator = _take(chunks)
            await super().__call__(scope, receive, send)


async def _take(chunks: Iterator[memoryview]) -> AsyncIterator[memoryview]:
    while (
        chunk := await to_thread.run_sync(next, chunks, None, abandon_on_cancel=True)
    ) is not None:
        yield chunk
