"""Arrow columns of any type as text, in the forms of JSON and RFC 3339.

Numbers keep their digits. A time is in UTC, with `T` and `Z`, a duration in ISO 8601, and a nested
value in JSON. A column whose values repeat stays a dictionary. A type without a text form is
refused, with the column's name and type.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from txn_platform.arrow.dictionaries import PerDictionary, indices_of, integers, numbers, renumbered
from txn_platform.errors import shown
from txn_platform.source.decode_limits import RefusedError, TooLargeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import Column, DictionaryEncoded
    from txn_platform.source.decode_limits import Budget

_TEXT: Final = pa.string()
_ENCODED: Final = pa.dictionary(pa.int32(), pa.string())
_UUID: Final = "arrow.uuid"
_BOOLEAN: Final = "arrow.bool8"
# Rows of a nested column that are Python objects at a time.
_NESTED_ROWS: Final = 1 << 10
_OBJECT_BYTES: Final = 32


class AsText:
    """Turns the chunks of one column into text; a dictionary that stays the same is read once."""

    def __init__(self, name: str, budget: Budget) -> None:
        """Args: name: the column's name, for messages; budget: counts what becomes larger."""
        self._name = name
        self._budget = budget
        self._dictionary = PerDictionary(self._values)

    def __call__(self, column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
        """The same rows as text, or as a dictionary of texts.

        Args:
            column: n values of any type, in a chunk at least; their bytes are not trusted.

        Returns:
            n values of `string` or of `dictionary<int32, string>`, the latter's values never null.

        Raises:
            pa.ArrowInvalid: the values are not what their type says.
            RefusedError: values of this type have no text.
            TooLargeError: the texts are too long, or too many.
        """
        try:
            return pa.chunked_array([self._chunk(chunk) for chunk in column.chunks])
        except KeyError:  # pyarrow has no arrays of some types.
            raise _no_text(self._name, column.type) from None

    def _chunk(self, column: Column) -> Column:
        if not isinstance(column, pa.DictionaryArray):
            column.validate(full=True)
            return _as_text(column, self._name, self._budget)
        encoded = cast("DictionaryEncoded", column)
        values = self._dictionary(encoded.dictionary)
        encoded.indices.validate(full=True)
        found: dict[str, int] = cast("Any", pc.min_max(encoded.indices)).as_py()
        if len(encoded) > encoded.null_count and not (
            0 <= found["min"] <= found["max"] < len(encoded.dictionary)
        ):
            raise pa.ArrowInvalid("an index points past its dictionary")
        return _over(encoded, values)

    def _values(self, dictionary: Column) -> Column:
        dictionary.validate(full=True)
        return as_plain(_as_text(dictionary, self._name, self._budget), self._budget)


def _as_text(column: Column, name: str, budget: Budget) -> Column:
    """Valid values as `AsText` returns them."""
    kind = column.type
    if kind == _TEXT:
        text = column
    elif isinstance(column, pa.DictionaryArray):
        values = as_plain(_as_text(column.dictionary, name, budget), budget)
        return _over(cast("DictionaryEncoded", column), values)
    elif pa.types.is_run_end_encoded(kind):
        return _of_runs(column, name, budget)
    else:
        text = _plain(column, name, budget)
    _require_short_values(text, name, budget)
    return text


def _plain(column: Column, name: str, budget: Budget) -> Column:
    kind = column.type
    try:
        if isinstance(column, pa.ExtensionArray):
            if kind.extension_name == _UUID:
                values = cast("Any", column).to_pylist()
                return pa.array([value and str(value) for value in values], _TEXT)
            if kind.extension_name == _BOOLEAN:
                return column.storage.cast(pa.bool_()).cast(_TEXT)
            return as_plain(_as_text(column.storage, name, budget), budget)
        if _is_view(kind):
            # Many values can be views of the same bytes.
            budget.take(0, int(_view_lengths(column).sum()))
        if _is_nested(kind):
            budget.take(0, _weight(column))
        if pa.types.is_temporal(kind):
            text = _times(column)
        elif pa.types.is_decimal(kind):
            text = _decimals(column)
        elif _is_nested(kind):
            text = _json(column)
        else:
            text = column.cast(_TEXT)
        budget.take(0, max(0, text.nbytes - _size(column)))
    except (
        pa.ArrowException,
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
        decimal.DecimalException,
    ):
        raise _no_text(name, kind) from None
    return text


def _size(column: Column) -> int:
    """The bytes of a column. An empty one may lack buffers, and so may a child of a nested one:
    Arrow's `nbytes` ends the process there.
    """
    if _is_nested(column.type) or not len(column):
        return column.get_total_buffer_size()
    return column.nbytes


def _no_text(name: str, kind: pa.DataType) -> RefusedError:
    return RefusedError(
        f"has the column {shown(name)} of type {shown(str(kind))}, which cannot be read as text:"
        " let the source send it as a string, or leave it out"
    )


def as_plain[T: (Column, pa.ChunkedArray[Any])](column: T, budget: Budget) -> T:
    """The same texts without a dictionary.

    Raises:
        TooLargeError: there are too many, or they are too long.
    """
    if not pa.types.is_dictionary(column.type):
        return column
    budget.take(0, expanded_bytes(column))
    return cast("T", column.cast(_TEXT))


def expanded_bytes(column: Column | pa.ChunkedArray[Any]) -> int:
    """How many bytes the texts of a column have, each one counted as often as it occurs."""
    chunks: list[Column] = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return sum(_total_length(chunk) for chunk in chunks)


def _total_length(column: Column) -> int:
    if isinstance(column, pa.DictionaryArray):
        lengths = _lengths(column.dictionary)
        counts = np.bincount(
            indices_of(cast("DictionaryEncoded", column)), minlength=len(lengths) + 1
        )
        return int(counts[:-1] @ lengths)
    return int(_lengths(column).sum())


def _lengths(texts: Column) -> NDArray[np.int64]:
    """The bytes of each text, 0 for null."""
    if not len(texts):
        return np.zeros(0, np.int64)
    lengths: Any = pc.binary_length(cast("Any", texts))
    return numbers(lengths.fill_null(0).cast(pa.int64()))


def _require_short_values(texts: Column, name: str, budget: Budget) -> None:
    data = texts.buffers()[2]
    if data is None or data.size <= budget.longest_value:
        return
    if int(_lengths(texts).max(initial=0)) > budget.longest_value:
        raise TooLargeError(
            f"has a value longer than {budget.longest_value:,} bytes in the column {shown(name)}"
        )


def _over(column: DictionaryEncoded, values: Column) -> DictionaryEncoded:
    """The same rows over the texts of their values, of which some may be null."""
    if column.type == _ENCODED and values is column.dictionary and not values.null_count:
        return column
    indices = column.indices.cast(pa.int32())
    plain: DictionaryEncoded = pa.DictionaryArray.from_arrays(indices, values, safe=False)
    if not values.null_count:
        return plain
    kept = np.flatnonzero(numbers(cast("Column", values.is_valid().cast(pa.int8()))))
    indices = np.full(len(values) + 1, -1, dtype=np.int32)
    indices[kept] = np.arange(len(kept), dtype=np.int32)
    return renumbered(indices_of(plain), indices, values.drop_null())


def _of_runs(column: Column, name: str, budget: Budget) -> DictionaryEncoded:
    """Values that are sent once for each run: one dictionary value for each run."""
    runs = cast("pa.RunEndEncodedArray[Any, Any]", column)
    values = as_plain(_as_text(runs.values, name, budget), budget)
    ends = np.clip(numbers(runs.run_ends).astype(np.int64) - runs.offset, 0, len(runs))
    indices = np.repeat(np.arange(len(ends), dtype=np.int32), np.diff(ends, prepend=0))
    encoded: DictionaryEncoded = pa.DictionaryArray.from_arrays(
        cast("pa.Int32Array", integers(indices)), values, safe=False
    )
    return _over(encoded, values)


def _times(column: Column) -> Column:
    """Moments, dates, times and durations; a number that none of them can be, as the number."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        text = _moments(column)
    elif pa.types.is_duration(kind):
        return _durations(column)
    else:
        text = column.cast(_TEXT)
    # Arrow writes a phrase in angle brackets for a value out of range.
    odd: Any = pc.starts_with(cast("Any", text), "<")
    if not cast("Any", pc.any(odd)).as_py():
        return text
    size = pa.int32() if kind.bit_width == 32 else pa.int64()
    return cast("Column", pc.if_else(odd, column.view(size).cast(_TEXT), text))


def _moments(column: Column) -> Column:
    """Timestamps as RFC 3339 has them: in UTC when they have a zone, and without one otherwise.

    Digits of a second beyond the sixth are left out where all three are 0.
    """
    kind = cast("pa.TimestampType[Any, Any]", column.type)
    text: Any = column.cast(pa.timestamp(kind.unit)).cast(_TEXT)
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    if kind.unit == "ns":
        text = pc.replace_substring_regex(text, r"(\.[0-9]{6})000$", r"\1")
    return text if kind.tz is None else pc.binary_join_element_wise(text, "Z", "")


def _durations(column: Column) -> Column:
    """Durations in seconds as ISO 8601 has them, as `PT1.5S`."""
    kind = cast("pa.DurationType[Any]", column.type)
    decimals = {"s": 0, "ms": 3, "us": 6, "ns": 9}[kind.unit]
    counts: Any = column.view(pa.int64()).cast(_TEXT)
    if decimals:
        digits = pc.replace_substring_regex(counts, "^(-?)", r"\1" + "0" * decimals)
        point = rf"^(-?)0*([0-9]+)([0-9]{{{decimals}}})$"
        counts = pc.replace_substring_regex(digits, point, r"\1\2.\3")
        counts = pc.replace_substring_regex(counts, r"\.?0+$", "")
    return cast("Column", pc.binary_join_element_wise("PT", counts, "S", ""))


def _decimals(column: Column) -> Column:
    """Decimals without an exponent.

    Zeros beyond the second decimal are the type's, not the value's, and are left out.
    """
    kind: Any = column.type
    text: Any = column.cast(_TEXT)
    if pc.any(pc.match_substring(text, "E")).as_py():
        values = cast("list[decimal.Decimal | None]", column.to_pylist())
        text = pa.array([None if value is None else f"{value:f}" for value in values], _TEXT)
    if kind.scale > 2:
        text = pc.replace_substring_regex(text, r"(\.[0-9]{2}[0-9]*?)0+$", r"\1")
    return text


def _is_nested(kind: pa.DataType) -> bool:
    """Whether the type is a list or a struct in which no value is shared.

    A list view, a union or a dictionary within one can name the same value again and again.
    """
    if pa.types.is_nested(kind) and not pa.types.is_run_end_encoded(kind):
        if not (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
            or pa.types.is_struct(kind)
            or pa.types.is_map(kind)
        ):
            raise TypeError
        for index in range(kind.num_fields):
            inner = kind.field(index).type
            if not _is_nested(inner) and (
                pa.types.is_dictionary(inner)
                or pa.types.is_run_end_encoded(inner)
                or _is_view(inner)
                or (isinstance(inner, pa.BaseExtensionType) and inner.extension_name != _UUID)
            ):
                raise TypeError
        return True
    return False


def _is_view(kind: pa.DataType) -> bool:
    return pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)


def _view_lengths(column: Column) -> NDArray[np.int64]:
    """The bytes of each value, 0 for null: the first of the four numbers of its view."""
    views = np.frombuffer(column.buffers()[1] or b"", np.int32)[::4]
    lengths = views[column.offset : column.offset + len(column)].astype(np.int64)
    valid = numbers(cast("Column", column.is_valid().cast(pa.int8())))
    return np.where(valid, lengths, 0)


def _weight(column: Column) -> int:
    """The memory that nested values take at most as Python objects, and the names in their JSON."""
    kind: Any = column.type
    nested: Any = column
    weight = len(column) * _OBJECT_BYTES
    if pa.types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        weight += len(column) * sum(len(name.encode()) + _OBJECT_BYTES for name in names)
        children = [nested.field(index) for index in range(kind.num_fields)]
    elif pa.types.is_map(kind):
        children = [nested.keys, nested.items]
    elif pa.types.is_nested(kind):
        children = [nested.values]
    else:
        return weight
    return weight + sum(map(_weight, children))


def _json(column: Column) -> Column:
    texts: list[str | None] = []
    for start in range(0, len(column), _NESTED_ROWS):
        texts += [
            None
            if value is None
            else json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_scalar)
            for value in column.slice(start, _NESTED_ROWS).to_pylist()
        ]
    return pa.array(texts, _TEXT)


def _scalar(value: Any) -> str:
    """A value that JSON has no type for, as the text that a column of its own would have."""
    match value:
        case dt.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal():
            return f"{value:f}"
        case uuid.UUID():
            return str(value)
        case dt.timedelta():
            micros = decimal.Decimal(value // dt.timedelta(microseconds=1))
            return f"PT{micros.scaleb(-6).normalize():f}S"
        case bytes():
            return value.decode()
        case _:
            raise TypeError
