"""Columns: the same rows, whatever dictionaries they are over."""

from unittest.mock import patch

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.arrow.dictionaries import (
    Column,
    PerDictionary,
    as_batch,
    as_frame,
    combined,
    compacted,
    encoded_schema,
    is_same,
    values_and_indices,
)

_SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64())])
_ENCODED = encoded_schema(_SCHEMA, ["text", "number", "absent"])
_TEXTS = st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "é"])), max_size=30)


def test_only_text_is_encoded() -> None:
    assert pa.types.is_dictionary(_ENCODED.field("text").type)
    assert _ENCODED.field("number").type == pa.int64()


@given(_TEXTS, st.integers(1, 7), st.booleans())
def test_rows_survive_every_way_of_bringing_them(
    texts: list[str | None], size: int, encoded: bool
) -> None:
    parts = [pa.array(texts[at : at + size], pa.string()) for at in range(0, len(texts), size)]
    column = pa.chunked_array(
        [part.dictionary_encode() if encoded else part for part in parts],
        type=_ENCODED.field("text").type if encoded else pa.string(),
    )
    numbers = pa.array(range(len(texts)), pa.int64())
    batch = as_batch(pa.table({"number": numbers, "more": numbers, "text": column}), _ENCODED)
    assert batch.schema.equals(_ENCODED)
    assert as_frame(batch)["text"].to_list() == texts
    kinds = {"text": pl.String, "number": pl.Int64}
    plain = pl.DataFrame({"text": texts, "number": numbers}, schema=kinds)
    assert as_frame(as_batch(plain, _ENCODED)).equals(as_frame(batch))


@given(_TEXTS, st.lists(st.text(max_size=3), max_size=8, unique=True), st.sampled_from([0, 0.1]))
def test_a_compacted_column_has_the_same_rows_and_no_unused_value(
    texts: list[str | None], more: list[str], unused_share: float
) -> None:
    dictionary = pa.array([*more, *dict.fromkeys(text for text in texts if text is not None)])
    of_rows = [None if text is None else dictionary.to_pylist().index(text) for text in texts]
    column = pa.DictionaryArray.from_arrays(
        pa.array(of_rows, pa.int32()), dictionary.cast(pa.string())
    )
    with patch("txn_platform.arrow.dictionaries._UNUSED_SHARE", unused_share):
        smaller = compacted(column)
    assert smaller.to_pylist() == texts
    unused = len(smaller.dictionary) - len({*texts} - {None})
    assert unused <= unused_share * len(dictionary)
    values, indices = values_and_indices(smaller)
    assert [values[int(index)] for index in indices] == texts


def test_a_null_among_the_values_is_a_null_among_the_rows() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1], pa.int32()), pa.array(["a", None]))
    batch = as_batch(pa.table({"text": column, "number": [1, 2, 3]}), _ENCODED)
    assert batch.column("text").to_pylist() == [None, "a", None]
    assert batch.column("text").null_count == 2


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        as_batch(pa.table({"text": ["a"], "number": ["seven"]}), _ENCODED)


def test_views_of_the_same_memory_are_told_from_copies() -> None:
    column = pa.array(["a", "b"])
    assert is_same(column, column.slice(0))
    assert not is_same(column, column.slice(1))
    assert not is_same(column, pa.array(["a", "b"]))


@given(st.lists(st.tuples(st.sampled_from(["ab", "ba", "c", ""]), st.integers(0, 4)), max_size=6))
def test_chunks_of_any_dictionaries_are_one_column_of_the_same_rows(
    given: list[tuple[str, int]],
) -> None:
    chunks = [
        pa.DictionaryArray.from_arrays(
            pa.array([row % len(values) if values else None for row in range(rows)], pa.int32()),
            pa.array(list(values), pa.string()),
        )
        for values, rows in given
    ]
    column = pa.chunked_array(chunks, type=_ENCODED.field("text").type)
    whole = combined(column)
    assert whole.to_pylist() == column.to_pylist()
    values = whole.dictionary.to_pylist()
    assert len(values) == len({*values})


def test_a_dictionary_is_looked_at_once_until_another_comes() -> None:
    looked: list[int] = []

    def look(values: Column) -> int:
        looked.append(len(values))
        return len(values)

    of = PerDictionary(look)
    one, other = pa.array(["a", "b", "c"]), pa.array(["d"])
    assert [of(values) for values in (one, one.slice(0), other, other, one)] == [3, 3, 1, 1, 3]
    assert looked == [3, 1, 3]
