"""Writes a window of transactions to a file or a pipe, without a server.

A file is complete, or what it was before. `wire.py` writes the rows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from generator_service import wire
from generator_service.simulator import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pyarrow as pa

    from generator_service.defects import DefectInjector
    from generator_service.simulator import Simulator, Window


def export(
    simulator: Simulator,
    window: Window,
    form: wire.Format,
    sink: Path | BinaryIO,
    *,
    injector: DefectInjector | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write the rows of a window as NDJSON, CSV, Arrow or Parquet, and return how many there are.

    Memory does not grow with the window.

    Args:
        simulator: makes the rows.
        window: the window of the rows.
        form: any format but JSON, which is not a stream.
        sink: a path, whose file is replaced when the export is complete, or a stream, which stays
            open.
        injector: injects defects; the rows are then text in Arrow and Parquet too, and include
            the copies.
        progress: called with the number of rows written so far.

    Raises:
        OSError: the sink cannot be written.
        ValueError: the format is JSON.
    """
    batches: Iterable[pa.RecordBatch | wire.Mixed] = wire.in_parallel(
        lambda start, stop: simulator.batches(window, position=start, stop=stop),
        0,
        simulator.count(window),
    )
    schema = SCHEMA
    if injector is not None and injector.alters:
        batches, schema = injector.batches(batches, form), injector.schema
    elif form in wire.LINES:
        batches, schema = wire.text_batches(batches), wire.text_schema(schema)
    schema = wire.named(schema, simulator.configuration_hash)
    rows = 0

    def report(so_far: int) -> None:
        nonlocal rows
        rows = so_far
        if progress is not None:
            progress(rows)

    chunks = wire.encode(_reported(batches, report), schema, form)
    if isinstance(sink, Path):
        _write(chunks, sink)
    else:
        sink.writelines(chunks)
    return rows


def _reported(
    batches: Iterable[pa.RecordBatch | wire.Mixed], progress: Callable[[int], None]
) -> Iterator[pa.RecordBatch | wire.Mixed]:
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        progress(rows)


def _write(chunks: Iterable[memoryview], path: Path) -> None:
    # Replaces the target of a link, not the link.
    path = path.resolve()
    # A device or a pipe must not be replaced by a file.
    in_place = path.exists() and not path.is_file()
    part = path if in_place else path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.writelines(chunks)
    except BaseException:
        if not in_place:
            part.unlink(missing_ok=True)
        raise
    if not in_place:
        part.replace(path)
