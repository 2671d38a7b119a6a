"""Validation of rows: each conforms and is typed, or is quarantined with every reason.

The rules are in `contract`. Uniqueness is checked over a whole window, all other rules row by row,
so that a window can be streamed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, cast

import numpy as np
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import (
    PerDictionary,
    as_batch,
    as_frame,
    boolean,
    empty,
    encoded_schema,
    few,
    indices_of,
    integers,
    renumbered,
    with_values,
)
from txn_platform.contract.codes import CURRENCY_EXPONENTS
from txn_platform.contract.reasons import (
    CONFLICT,
    DUPLICATE,
    DUPLICATE_FIELD_ROW,
    OUTSIDE_WINDOW,
    UNREADABLE_ROW,
    reason_of,
)
from txn_platform.contract.schema import (
    CONFORMING_SCHEMA,
    CONTRACT_VERSION,
    DICTIONARY_ENCODED_COLUMNS,
    DUPLICATE_FIELD,
    FINER_DECIMAL,
    QUARANTINE_SCHEMA,
    SENT_COLUMNS,
    TEXT_PATTERNS,
    UNREADABLE,
    WITHOUT_DECIMALS,
    SentTransaction,
)
from txn_platform.rows.duplicates import repeated_ids
from txn_platform.rows.timestamps import parse_timestamps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import DictionaryEncoded
    from txn_platform.rows.duplicates import Batches
    from txn_platform.windows import Window

type RowsByReason = Mapping[str, NDArray[np.int64]]
"""For each reason that some rows have, the indices of these rows, ascending."""

# The result of `find_repeats` for a window without repeats.
NO_REPEATS: Final = pl.DataFrame(schema={"position": pl.Int64, "repeat": pl.String})


@dataclass(frozen=True)
class ValidatedBatch:
    """A batch after validation: each row is either in `conforming` or in `quarantined`.

    Attributes:
        conforming: columns of `CONFORMING_SCHEMA`, typed, in the order sent.
        quarantined: columns of `QUARANTINE_SCHEMA`, as sent, in the order sent.
        rows_by_reason: the indices of the quarantined rows by reason.
    """

    conforming: pa.RecordBatch
    quarantined: pa.RecordBatch
    rows_by_reason: RowsByReason = field(default_factory=dict[str, "NDArray[np.int64]"])


def _parse(sent: pl.Series, texts: pl.Series | pa.Array[Any]) -> pl.Series:
    """Texts as values, null where the text does not have the contract's form."""
    pattern = TEXT_PATTERNS[sent.name]
    dtype = SentTransaction.columns()[sent.name].dtype
    if isinstance(dtype, pl.Datetime):
        return parse_timestamps(texts, pattern).alias(sent.name)
    formed = sent.str.contains(pattern)
    values = sent == "true" if dtype == pl.Boolean() else sent.cast(dtype, strict=False)
    if formed.all(ignore_nulls=False):
        return values
    return pl.select(pl.when(formed).then(values).alias(sent.name)).to_series()


def _parsers() -> list[pl.Expr]:
    """For each column that is parsed, an expression of its values and one of its text."""
    expressions: list[pl.Expr] = []
    for name in TEXT_PATTERNS:
        text = pl.col(name)
        dtype = SentTransaction.columns()[name].dtype
        value = text.map_batches(lambda texts: _parse(texts, texts), return_dtype=dtype)
        expressions += [value.alias(name), text.alias(f"sent.{name}")]
    return expressions


def _rules() -> dict[str, list[pl.Expr]]:
    """For every reason, the expressions that must all be true; never null.

    They refer to a parsed value by its column's name, and to its text by `sent.` and the name.
    """
    rules: dict[str, list[pl.Expr]] = {}
    for name, column in SentTransaction.columns().items():
        value = pl.col(name)
        found = dict(column.validation_rules(value))
        if "max_length" in found:
            # A text that is too long may have megabytes, so no other rule reads it.
            short = found["max_length"].fill_null(value=True)
            text = pl.when(short).then(value).otherwise(pl.lit(""))
            found = column.validation_rules(text) | {"max_length": found["max_length"]}
        if name in TEXT_PATTERNS:
            # A value that was not parsed is malformed. Only absent text is missing.
            text = pl.col(f"sent.{name}")
            found["nullability"] = text.is_not_null()
            found["text"] = value.is_not_null() | text.is_null()
        # Other rules make no sense for a value that does not have the right form. That it holds a
        # card number is said in any case.
        well_formed = found.get("regex", pl.lit(value=True)).fill_null(value=True)
        for rule, expression in found.items():
            if rule.startswith("check__") and rule != "check__card_number":
                expression |= ~well_formed  # noqa: PLW2901
            rules.setdefault(reason_of(name, rule), []).append(expression.fill_null(value=True))
    return rules


_RULES_BY_REASON: Final = _rules()
_PARSERS: Final = _parsers()
# An amount with as many decimals as its currency has, which is more than the contract allows.
_FINER: Final = (
    pl.col("sent.amount").str.extract(FINER_DECIMAL).str.len_bytes()
    <= pl.col("currency").replace_strict(CURRENCY_EXPONENTS, default=None, return_dtype=pl.UInt32)
).fill_null(value=False)
_RULES: Final = {reason: pl.all_horizontal(tests) for reason, tests in _RULES_BY_REASON.items()} | {
    "amount.format": pl.all_horizontal(_RULES_BY_REASON["amount.format"]) | _FINER,
    "amount.exponent": pl.all_horizontal(_RULES_BY_REASON["amount.exponent"]) & ~_FINER,
}
# An unreadable row has no fields. Its only reason is that it is unreadable.
_UNREADABLE: Final = pl.all_horizontal(
    pl.col("extra_fields").str.starts_with(f'{{"{UNREADABLE}":').fill_null(value=False),
    *(pl.col(f"sent.{name}" if name in TEXT_PATTERNS else name).is_null() for name in SENT_COLUMNS),
)
# The source may send a field of this name; its value is then text, not a list.
_REPEATS_A_FIELD: Final = (
    pl.col("extra_fields").str.starts_with(f'{{"{DUPLICATE_FIELD}":[').fill_null(value=False)
)


def _is_of_one_column(rule: pl.Expr) -> bool:
    return len({name.removeprefix("sent.") for name in rule.meta.root_names()}) == 1


# Rules of one column are evaluated once for each value; rules of several columns, for each row.
_OF_ONE_COLUMN: Final = {
    name: pl.all_horizontal(
        rule
        for reason, rules in _RULES_BY_REASON.items()
        if reason.partition(".")[0] == name
        for rule in rules
        if _is_of_one_column(rule)
    )
    for name in SENT_COLUMNS
}
# Few rows can break these two, so they are evaluated for those rows only.
_OF_AMOUNTS: Final = "amount.exponent"
_OF_REFUNDS: Final = "original_transaction_id.own_id"
_OF_ROWS: Final = [
    rule
    for reason, rules in _RULES_BY_REASON.items()
    for rule in rules
    if reason not in {_OF_AMOUNTS, _OF_REFUNDS} and not _is_of_one_column(rule)
]
_ROW_COLUMNS: Final = sorted(
    {"transaction_at"}.union(*(rule.meta.root_names() for rule in _OF_ROWS))
)
_WORKERS: Final = 2
_QUARANTINED: Final = encoded_schema(QUARANTINE_SCHEMA, DICTIONARY_ENCODED_COLUMNS)


class Validator:
    """Validates the batches of a window.

    The first step finds the rows that conform, column by column. A dictionary's values are
    validated once, and the result is kept until another dictionary comes, because the batches of a
    row group share theirs. The second step evaluates the same rules for each reason, on the other
    rows only.
    """

    def __init__(self, window: Window, repeats: pl.DataFrame) -> None:
        """Args: window: the rows were requested for it; repeats: the result of `find_repeats`."""
        self._window = window
        self._repeats = repeats
        self._dictionaries = {
            name: PerDictionary(partial(_Dictionary.of, name)) for name in SENT_COLUMNS
        }
        self._lack_decimals = PerDictionary(_lack_decimals)

    def validate(self, sent: pa.RecordBatch) -> ValidatedBatch:
        """Validate a batch.

        Args:
            sent: columns of `LANDED_SCHEMA`; each position is one above the position before.

        Raises:
            RuntimeError: a row does not conform and has no reason, which is an error in the rules.
        """
        with ThreadPoolExecutor(_WORKERS) as pool:
            columns = list(pool.map(self._column, SENT_COLUMNS, map(sent.column, SENT_COLUMNS)))
        conforms = np.ones(sent.num_rows, dtype=np.bool_)
        for column in columns:
            if column.conforms is not None:
                conforms &= column.conforms
        typed = pa.RecordBatch.from_arrays(
            [column.typed for column in columns], schema=CONFORMING_SCHEMA
        )
        whole_rows = as_frame(typed.select(_ROW_COLUMNS))
        in_place = whole_rows.select(pl.all_horizontal(*_OF_ROWS, _is_inside(self._window)))
        conforms &= in_place.to_series().to_numpy()
        refunds = whole_rows["original_transaction_id"].is_not_null().arg_true().to_numpy()
        conforms[refunds] &= _hold(_OF_REFUNDS, typed, refunds)
        currencies = cast("DictionaryEncoded", typed.column("currency"))
        lack_decimals = self._lack_decimals(currencies.dictionary)
        if lack_decimals.any():
            whole = np.flatnonzero(lack_decimals[indices_of(currencies)])
            conforms[whole] &= _hold(_OF_AMOUNTS, typed, whole)
        if sent.column("extra_fields").null_count < sent.num_rows:
            extra = as_frame(sent.select(["extra_fields"]))
            conforms &= ~extra.select(_REPEATS_A_FIELD).to_series().to_numpy()
        if self._repeats.height and sent.num_rows:
            indices = self._repeats["position"].to_numpy() - sent.column("position")[0].as_py()
            conforms[indices[(indices >= 0) & (indices < sent.num_rows)]] = False
        if conforms.all():
            return ValidatedBatch(typed, empty(_QUARANTINED))
        rest = few(sent, ~conforms)
        rows_by_reason = _rows_by_reason(rest, self._window, self._repeats)
        quarantined = _quarantined(rest, self._window, rows_by_reason)
        return ValidatedBatch(typed.filter(boolean(conforms)), quarantined, rows_by_reason)

    def _column(self, name: str, column: pa.Array[Any]) -> _Column:
        if not isinstance(column, pa.DictionaryArray):
            values, good = _validate_values(name, column)
            typed = column if name not in TEXT_PATTERNS else values.to_arrow()
            return _Column(typed, None if good.all() else good.to_numpy())
        encoded = cast("DictionaryEncoded", column)
        validated = self._dictionaries[name](encoded.dictionary).column(encoded)
        if name in TEXT_PATTERNS:
            plain = validated.typed.cast(CONFORMING_SCHEMA.field(name).type)
            return _Column(plain, validated.conforms)
        return validated


def _lack_decimals(currencies: pa.Array[Any]) -> NDArray[np.bool_]:
    """Whether each of k currencies has no decimals; the last of k + 1 values is null's."""
    codes = pl.Series(currencies, dtype=pl.String).extend_constant(None, 1)
    return codes.is_in(WITHOUT_DECIMALS).fill_null(value=False).to_numpy()


def _hold(
    reason: str, rows: pa.RecordBatch, indices: NDArray[np.integer[Any]]
) -> NDArray[np.bool_]:
    """Whether the rows at the given indices obey the rules of a reason."""
    rules = pl.all_horizontal(_RULES_BY_REASON[reason])
    some = rows.select(sorted({*rules.meta.root_names()})).take(cast("Any", integers(indices)))
    return as_frame(some).select(rules).to_series().to_numpy()


@dataclass(frozen=True)
class _Column:
    """A validated column of n rows.

    Attributes:
        typed: n values of the type in `CONFORMING_SCHEMA`, null where the text is no such value. A
            dictionary has conforming values only.
        conforms: n truth values; None when all are true.
    """

    typed: pa.Array[Any]
    conforms: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Dictionary:
    """A validated dictionary of k values.

    Attributes:
        typed: values of the type in `CONFORMING_SCHEMA`. For a column that stays a dictionary, the
            conforming values; for another, all k, null where the text is no such value.
        conforms: k + 1 truth values; the last is null's.
        indices: for each of the k + 1 values its index in `typed`, -1 for none; None when every
            value keeps its index.
    """

    typed: pa.Array[Any]
    conforms: NDArray[np.bool_]
    indices: NDArray[np.int32] | None

    @classmethod
    def of(cls, name: str, sent: pa.Array[Any]) -> Self:
        """Validate the dictionary of a column."""
        values, good = _validate_values(
            name, pl.Series(sent, dtype=pl.String).extend_constant(None, 1)
        )
        conforms = good.to_numpy()
        if name in TEXT_PATTERNS:
            kind = CONFORMING_SCHEMA.field(name).type
            return cls(values.head(len(sent)).to_arrow().cast(kind), conforms, None)
        kept = conforms.copy()
        kept[-1] = False
        if kept[:-1].all():
            return cls(sent, conforms, None)
        indices = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
        return cls(sent.filter(boolean(kept[:-1])), conforms, indices)

    def column(self, encoded: DictionaryEncoded) -> _Column:
        """Rows over this dictionary, validated."""
        indices = indices_of(encoded)
        good = self.conforms if encoded.null_count else self.conforms[:-1]
        conforms = None if good.all() else self.conforms[indices]
        if self.indices is None:
            return _Column(with_values(encoded, self.typed), conforms)
        return _Column(renumbered(indices, self.indices, self.typed), conforms)


def _validate_values(name: str, texts: pl.Series | pa.Array[Any]) -> tuple[pl.Series, pl.Series]:
    """Parsed texts, and whether each obeys the rules of its column alone."""
    sent = pl.Series(name, texts, dtype=pl.String)
    values = _parse(sent, texts) if name in TEXT_PATTERNS else sent
    frame = pl.DataFrame([values, sent.alias(f"sent.{name}")])
    return values, frame.select(_OF_ONE_COLUMN[name]).to_series()


def _rows_by_reason(
    sent: pa.RecordBatch, window: Window, repeats: pl.DataFrame
) -> dict[str, NDArray[np.int64]]:
    """For each reason the indices of its rows, in the order of `REASONS`; no reason without rows.

    Args:
        sent: the rows that do not conform, columns of `LANDED_SCHEMA`.
        window: the rows were requested for it.
        repeats: the result of `find_repeats`.
    """
    tested = (
        as_frame(sent)
        .lazy()
        .join(repeats.lazy(), on="position", how="left", maintain_order="left")
        .with_columns(_PARSERS)
        .select(
            "repeat",
            *(rule.alias(reason) for reason, rule in _RULES.items()),
            _is_inside(window).alias(OUTSIDE_WINDOW),
            _UNREADABLE.alias(UNREADABLE_ROW),
            _REPEATS_A_FIELD.alias(DUPLICATE_FIELD_ROW),
        )
        .collect()
    )
    readable = ~tested[UNREADABLE_ROW]
    holds = {name: tested[name] for name in (UNREADABLE_ROW, DUPLICATE_FIELD_ROW)}
    holds |= {reason: ~tested[reason] & readable for reason in (*_RULES, OUTSIDE_WINDOW)}
    holds |= {reason: tested["repeat"] == reason for reason in (DUPLICATE, CONFLICT)}
    found = {
        reason: of_rows.fill_null(value=False).arg_true().to_numpy().astype(np.int64)
        for reason, of_rows in holds.items()
    }
    return {reason: rows for reason, rows in found.items() if len(rows)}


def _quarantined(
    sent: pa.RecordBatch, window: Window, rows_by_reason: RowsByReason
) -> pa.RecordBatch:
    """Rows that do not conform, with the columns of `QUARANTINE_SCHEMA`."""
    count = sent.num_rows
    columns: dict[str, pa.Array[Any]] = {
        **{name: sent.column(name) for name in sent.schema.names},
        "reasons": _reasons_of_rows(rows_by_reason, count),
        "window_start": pl.repeat(window.start, count, eager=True).to_arrow(),
        "contract_version": pl.repeat(CONTRACT_VERSION, count, eager=True).to_arrow(),
    }
    return as_batch(pa.Table.from_pydict(columns), _QUARANTINED)


def _reasons_of_rows(rows_by_reason: RowsByReason, count: int) -> pa.Array[Any]:
    """For each of `count` rows the list of its reasons, in the order of `rows_by_reason`."""
    rows = np.concatenate([np.empty(0, dtype=np.int64), *rows_by_reason.values()])
    reasons_of_row = np.bincount(rows, minlength=count)
    if not reasons_of_row.all():
        raise RuntimeError("a row does not conform and has no reason")
    reasons = np.repeat(np.arange(len(rows_by_reason)), list(map(len, rows_by_reason.values())))
    names = pl.Series(list(rows_by_reason), dtype=pl.String).gather(
        reasons[np.argsort(rows, kind="stable")]
    )
    offsets = np.concatenate([[0], np.cumsum(reasons_of_row)]).astype(np.int32)
    return pa.ListArray.from_arrays(cast("Any", integers(offsets)), names.to_arrow())


def _is_inside(window: Window) -> pl.Expr:
    at = pl.col("transaction_at")
    return at.is_between(window.start, window.end, closed="left").fill_null(value=True)


def find_repeats(batches: Batches) -> pl.DataFrame:
    """The rows that share a well-formed id with another row and must not be published.

    If all rows with an id are equal in every field, the first of them may be published. If they
    differ, none may.

    Args:
        batches: gives the window's rows as sent, columns of `LANDED_SCHEMA`; see `repeated_ids`.

    Returns:
        `position` and `repeat` of each such row; `repeat` is the reason.
    """
    well_formed = SentTransaction.columns()["transaction_id"].validation_rules(
        pl.col("transaction_id")
    )
    copies = (
        repeated_ids(batches)
        .filter(pl.all_horizontal(*well_formed.values()).fill_null(value=False))
        .select(
            "position", "transaction_id", content=pl.struct(pl.exclude("position")).hash(seed=0)
        )
    )
    same_id = pl.col("content").n_unique().over("transaction_id") == 1
    return copies.select(
        "position",
        repeat=pl.when(~same_id)
        .then(pl.lit(CONFLICT))
        .when(pl.col("position") != pl.col("position").min().over("transaction_id"))
        .then(pl.lit(DUPLICATE)),
    ).drop_nulls("repeat")
