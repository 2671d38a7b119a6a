"""The values that are sent: corrupted by kind, as columns or as rows of JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from generator_service import wire
from generator_service.defects.columns import (
    Columns,
    Field,
    as_batch,
    in_json,
    is_dictionary_encoded,
    replaced,
    text_field,
    texts_at,
)
from generator_service.defects.drift import apply_drifts
from generator_service.defects.kinds import corrupted
from generator_service.simulator import SCHEMA, Window
from generator_service.wire import Column, Mixed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from generator_service.defects.drift import Drift
    from generator_service.defects.kinds import Kind
    from generator_service.defects.selection import SelectedRows
    from generator_service.simulator.randomness import Integers

_TEXT_SCHEMA = wire.text_schema(SCHEMA)


class Corruption:
    """Corrupts the values of selected rows.

    Args:
        kinds: the kinds of defects, by code.
        drifts: how the schema drifts.
        window: the window of the rows.
        schema: the schema of the simulator's batches.

    Attributes:
        fields: the fields of the text, added ones included, by name.
        schema: the schema of `columns`.
    """

    def __init__(
        self,
        kinds: list[Kind],
        drifts: tuple[Drift, ...],
        window: Window,
        schema: pa.Schema,
    ) -> None:
        self._kinds = kinds
        self._drifts = drifts
        self._dictionaries: dict[str, _Dictionary] = {}
        # All values of a dictionary are corrupted at once. For kinds that change each value, only
        # the short dictionaries of `SCHEMA` are worth that.
        changed = {kind.field for kind in kinds if callable(kind.corrupt)}
        fields: dict[str, Field] = {
            field.name: (field if field.name in changed else encoded).with_nullable(True)
            for field, encoded in zip(_TEXT_SCHEMA, wire.text_schema(schema), strict=True)
        }
        corrupted_names = {kind.field for kind in kinds} & fields.keys()
        self._dictionary_encoded = [
            name for name in corrupted_names if is_dictionary_encoded(fields[name])
        ]
        self._added = sorted({kind.adds for kind in kinds if kind.adds})
        self.fields = fields | {name: text_field(name) for name in self._added}
        self.schema = self._schema(window)

    def columns(self, rows: SelectedRows) -> pa.RecordBatch:
        """Return rows as a batch of `schema`; a field that a row lacks is null."""
        found = apply_drifts(self._with_fields(self._corrupted(rows)), rows.drifts)
        count = rows.batch.num_rows
        arrays = [
            found[field.name][1] if field.name in found else pa.nulls(count, field.type)
            for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def shapes(self, rows: SelectedRows) -> pa.RecordBatch | Mixed:
        """Return rows for JSON: each with its own fields and types."""
        columns = self._with_fields(self._corrupted(rows))
        parts = [{name: columns[name] for name in SCHEMA.names}]
        order = np.arange(rows.batch.num_rows)
        end = order.size
        for _, kind, indices in rows.by_kind(self._kinds):
            if kind.has_shape:
                parts.append(_shape(kind, columns, indices))
                order[indices] = np.arange(end, end + indices.size)
                end += indices.size
        batches = [as_batch(apply_drifts(part, rows.drifts, retyped=True)) for part in parts]
        return batches[0] if len(batches) == 1 else Mixed(batches, order)

    def _corrupted(self, rows: SelectedRows) -> dict[str, Column]:
        """Return the columns of rows after corruption, followed by the added ones."""
        names = rows.batch.schema.names
        columns: dict[str, Column] = dict(zip(names, rows.batch.columns, strict=True))
        changes: dict[str, list[tuple[Integers, Sequence[str | None]]]] = {}
        encoded: dict[str, npt.NDArray[np.int32]] = {}
        for code, kind, rows_of_kind in rows.by_kind(self._kinds):
            if kind.adds is not None:
                before = texts_at(columns, kind.field, rows_of_kind)
                after = corrupted(kind.corrupt, before)
                moved = [new or old for new, old in zip(after, before, strict=True)]
                changes.setdefault(kind.adds, []).append((rows_of_kind, moved))
            column = columns.get(kind.field)
            if isinstance(column, pa.DictionaryArray):
                if kind.field not in encoded:
                    encoded[kind.field] = column.indices.fill_null(-1).to_numpy().copy()
                indices = encoded[kind.field]
                dictionary = self._dictionary(kind.field, column)
                indices[rows_of_kind] = dictionary.corrupted[code][indices[rows_of_kind]]
            elif column is not None:
                after = corrupted(kind.corrupt, texts_at(columns, kind.field, rows_of_kind))
                changes.setdefault(kind.field, []).append((rows_of_kind, after))
        for name in self._dictionary_encoded:
            column = cast("pa.DictionaryArray[Any, Any]", columns[name])
            indices = column.indices
            if name in encoded:
                indices = pa.array(encoded[name], mask=encoded[name] < 0)
            columns[name] = pa.DictionaryArray.from_arrays(
                indices, self._dictionary(name, column).values, safe=False
            )
        for name in self._added:
            columns[name] = pa.nulls(rows.batch.num_rows, pa.string())
        for name, pieces in changes.items():
            columns[name] = replaced(columns[name], pieces)
        return columns

    def _dictionary(self, name: str, column: pa.DictionaryArray[Any, Any]) -> _Dictionary:
        """Return the dictionary of a column, extended by the corrupted values."""
        known = self._dictionaries.get(name)
        if known is None or not wire.is_same(known.true, column.dictionary):
            kinds = [(code, kind) for code, kind in enumerate(self._kinds) if kind.field == name]
            known = self._dictionaries[name] = _Dictionary.of(column.dictionary, kinds)
        return known

    def _with_fields(self, columns: dict[str, Column]) -> Columns:
        return {name: (self.fields[name], column) for name, column in columns.items()}

    def _schema(self, window: Window) -> pa.Schema:
        """Return all columns of the window's rows, before and after each drift within it."""
        fields: list[Field] = []
        for name in SCHEMA.names:
            field = self.fields[name]
            drift = next((drift for drift in self._drifts if drift.column == name), None)
            if drift is None or drift.change == "retype" or drift.since > window.start:
                fields.append(field)
            if drift is not None and drift.change == "rename" and drift.since < window.end:
                fields.append(field.with_name(drift.name))
        added = [
            drift.name
            for drift in self._drifts
            if drift.change == "add" and drift.since < window.end
        ]
        return pa.schema([*fields, *map(text_field, [*added, *self._added])])


def _shape(kind: Kind, columns: Columns, indices: Integers) -> Columns:
    """Return the rows of a kind with the fields and types that they have in JSON."""
    names = [name for name in SCHEMA.names if not (kind.absent and name == kind.field)]
    names += [kind.adds] if kind.adds else []
    part = {name: (columns[name][0], columns[name][1].take(indices)) for name in names}
    if kind.json is not None:
        field, column = part[kind.field]
        texts = cast("list[str]", column.to_pylist())
        written = pa.array(corrupted(kind.json, texts), pa.string())
        part[kind.field] = (in_json(pa.field(field.name, pa.string()), "bare"), written)
    return part


@dataclass(frozen=True)
class _Dictionary:
    """The dictionary of a column, extended by the values that corruption makes of its own.

    Attributes:
        true: the dictionary without corruption.
        values: the true values, then the new ones.
        corrupted: for each code of a kind, the index in `values` of what each true value becomes;
            -1 is null.
    """

    true: Column
    values: pa.StringArray
    corrupted: dict[int, npt.NDArray[np.int32]]

    @classmethod
    def of(cls, true: Column, kinds: list[tuple[int, Kind]]) -> _Dictionary:
        new: dict[str, int] = {}

        def index_of(text: str | None) -> int:
            return -1 if text is None else new.setdefault(text, len(true) + len(new))

        by_code: dict[int, npt.NDArray[np.int32]] = {}
        for code, kind in kinds:
            if callable(kind.corrupt):
                texts = corrupted(kind.corrupt, cast("list[str]", true.to_pylist()))
                by_code[code] = np.array([index_of(text) for text in texts], np.int32)
            else:
                by_code[code] = np.full(len(true), index_of(kind.corrupt), np.int32)
        values = pa.concat_arrays([true, pa.array(list(new), pa.string())])
        return cls(true, cast("pa.StringArray", values), by_code)
