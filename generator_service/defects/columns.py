"""Columns of text and their fields, as the parts of the injector exchange them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa

from generator_service.wire import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from generator_service.simulator.randomness import Integers

type Field = pa.Field[Any]
type Columns = dict[str, tuple[Field, Column]]


def is_dictionary_encoded(field: Field) -> bool:
    """Whether the column of a field is dictionary-encoded."""
    return pa.types.is_dictionary(field.type)


def in_json(field: Field, written: Literal["string", "bare"]) -> Field:
    """Return a field whose metadata says whether JSON quotes its values."""
    return field.with_metadata({"json": written})


def text_field(name: str) -> Field:
    """Return the field of a column that clean rows do not have: text, quoted in JSON."""
    return in_json(pa.field(name, pa.string()), "string")


def as_batch(columns: Columns) -> pa.RecordBatch:
    """Return the columns as a batch."""
    schema = pa.schema([field for field, _ in columns.values()])
    return pa.RecordBatch.from_arrays([column for _, column in columns.values()], schema=schema)


def texts_at(columns: dict[str, Column], name: str, indices: Integers) -> list[str]:
    """Return the texts of a column at some indices; empty texts when there is no such column."""
    if name not in columns:
        return [""] * indices.size
    return cast("list[str]", columns[name].take(indices).to_pylist())


def replaced(column: Column, pieces: list[tuple[Integers, Sequence[str | None]]]) -> Column:
    """Return a column of text with other texts at some indices."""
    indices = np.concatenate([indices for indices, _ in pieces])
    texts = pa.array([text for _, texts in pieces for text in texts], pa.string())
    order = np.arange(len(column))
    order[indices] = np.arange(len(column), len(column) + indices.size)
    return pa.concat_arrays([column, texts]).take(order)
