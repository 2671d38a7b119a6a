"""A window of transactions to a file or a pipe, with no server between.

Here: the file that is whole or not there. Not here: how rows are written (`wire.py`), and the
command line that asks for it.
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

    A path holds the whole export or what it held before: the rows are written beside it first.
    A stream is written to as it is, and stays open. `progress` is called with the rows made so
    far. Memory does not grow with the window. With a `injector` that alters anything the rows are
    text in Arrow and Parquet too, and its copies are among them. Raises OSError when the sink
    cannot be written to, and ValueError for JSON, which is no stream.
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

    def tell(so_far: int) -> None:
        nonlocal rows
        rows = so_far
        if progress is not None:
            progress(rows)

    chunks = wire.encode(_told(batches, tell), schema, form)
    if isinstance(sink, Path):
        _write(chunks, sink)
    else:
        sink.writelines(chunks)
    return rows


def _told(
    batches: Iterable[pa.RecordBatch | wire.Mixed], progress: Callable[[int], None]
) -> Iterator[pa.RecordBatch | wire.Mixed]:
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        progress(rows)


def _write(chunks: Iterable[memoryview], path: Path) -> None:
    # A link stays, and the file that it leads to is replaced.
    path = path.resolve()
    # A device or a pipe cannot be replaced by a file, and must not be.
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
