"""Parquet files: their layout, opening and reading them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from txn_platform.arrow.dictionaries import as_batch, empty

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


# Rows that are validated at once, which needs a few times their size in memory.
_BATCH_ROWS: Final = 1 << 18


@dataclass(frozen=True)
class Encoding:
    """The layout of a Parquet file.

    Attributes:
        compression: pyarrow's name of the codec.
        level: of the codec, if it has levels.
        row_group_rows: rows per row group, which readers skip as a unit, and which bounds memory.
        sorted_by: columns that the rows are ordered by; the footer names them for readers.
        dictionary_encoded: text columns whose values repeat, as dictionaries in memory too.
        delta_encoded: columns whose values differ little from the one before.
        plain: columns whose values hardly repeat, so that dictionaries would not help.
    """

    compression: Literal["lz4", "zstd"]
    level: int | None = None
    row_group_rows: int = 1 << 20
    sorted_by: tuple[str, ...] = ()
    dictionary_encoded: tuple[str, ...] = ()
    delta_encoded: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()


def open_parquet(path: Path, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
    """A local Parquet file, as `Lake.open` gives one of the lake.

    Raises:
        FileNotFoundError: there is none.
    """
    # Opened once: a file that replaces it meanwhile is not read.
    return parquet_of(pa.OSFile(str(path), "rb"), dictionary_encoded)


def parquet_of(source: pa.NativeFile, dictionary_encoded: Collection[str] = ()) -> pq.ParquetFile:
    """An open Parquet file, as `Lake.open` gives one of the lake."""
    footer = pq.ParquetFile(source).metadata
    names: Any = [name for name in footer.schema.names if name in dictionary_encoded]
    return pq.ParquetFile(source, metadata=footer, read_dictionary=names)


def read_batches(
    file: pq.ParquetFile, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in order, some hundred thousand at a time, at least one batch.

    Batches of one row group share their dictionaries.
    """
    schema = file.schema_arrow
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    if not file.metadata.num_rows:
        yield empty(schema)
    dictionary_encoded = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    plain = [name for name in schema.names if name not in dictionary_encoded]
    for group in range(file.num_row_groups):
        # Read in pieces, it would have the values of its dictionaries looked up for each.
        rows = file.read_row_group(group, columns=dictionary_encoded)
        start = 0
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=plain):
            pieces = rows.slice(start, batch.num_rows)
            start += batch.num_rows
            table = pa.Table.from_arrays(
                [*pieces.columns, *batch.columns], names=[*dictionary_encoded, *plain]
            )
            yield as_batch(table, schema)
