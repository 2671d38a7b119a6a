"""Rows as sent, held against the contract: conforming and typed, or quarantined with every reason.

Pure. The rules are in `contract`, and are only applied here. Uniqueness is checked over a whole
window, everything else row by row, so that a window can be streamed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    recoded,
    renumbered,
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
from txn_platform.rows.reconciliation import repeated_ids
from txn_platform.rows.timestamps import parse_timestamps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import DictionaryEncoded
    from txn_platform.rows.reconciliation import Batches
    from txn_platform.windows import Window

# The result of `find_repeats` for a window without repeats.
NO_REPEATS: Final = pl.DataFrame(schema={"position": pl.Int64, "repeat": pl.String})


@dataclass(frozen=True)
class ValidatedBatch:
    """A batch after validation: each of its rows is in exactly one of the two.

    Attributes:
        conforming: columns of `CONFORMING_SCHEMA`, typed, in the order sent.
        quarantined: columns of `QUARANTINE_SCHEMA`, as sent, in the order sent.
    """

    conforming: pa.RecordBatch
    quarantined: pa.RecordBatch

    @property
    def reasons(self) -> pl.Series:
        """Every reason, as often as a row was quarantined for it."""
        return as_frame(self.quarantined.select(["reasons"]))["reasons"].explode().drop_nulls()


def _parse(sent: pl.Series, texts: pl.Series | pa.Array[Any]) -> pl.Series:
    """Texts to values, null where the text does not have the form that the contract asks for."""
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
    """Text to values, null where the text does not have the form that the contract asks for."""
    expressions: list[pl.Expr] = []
    for name in TEXT_PATTERNS:
        text = pl.col(name)
        dtype = SentTransaction.columns()[name].dtype
        value = text.map_batches(lambda texts: _parse(texts, texts), return_dtype=dtype)
        expressions += [value.alias(name), text.alias(f"sent.{name}")]
    return expressions


def _rules() -> dict[str, list[pl.Expr]]:
    """For every reason, the expressions that must all be true; never null.

    They speak of parsed values by the columns' names, and of their text as `sent.` and the name.
    """
    rules: dict[str, list[pl.Expr]] = {}
    for name, column in SentTransaction.columns().items():
        value = pl.col(name)
        found = dict(column.validation_rules(value))
        if "max_length" in found:
            # A text that is too long, maybe by megabytes, need not be looked through as well.
            short = found["max_length"].fill_null(value=True)
            text = pl.when(short).then(value).otherwise(pl.lit(""))
            found = column.validation_rules(text) | {"max_length": found["max_length"]}
        if name in TEXT_PATTERNS:
            # A value that did not parse is malformed, not missing: only absent text is missing.
            text = pl.col(f"sent.{name}")
            found["nullability"] = text.is_not_null()
            found["text"] = value.is_not_null() | text.is_null()
        # Of a value without the right form nothing else can be said.
        well_formed = found.get("regex", pl.lit(value=True)).fill_null(value=True)
        for rule, expression in found.items():
            if rule.startswith("check__"):
                expression |= ~well_formed  # noqa: PLW2901
            rules.setdefault(reason_of(name, rule), []).append(expression.fill_null(value=True))
    return rules


_RULES_BY_REASON: Final = _rules()
_PARSERS: Final = _parsers()
# An amount with the decimals of its currency, more than this version of the contract has.
_FINER: Final = (
    pl.col("sent.amount").str.extract(FINER_DECIMAL).str.len_bytes()
    <= pl.col("currency").replace_strict(CURRENCY_EXPONENTS, default=None, return_dtype=pl.UInt32)
).fill_null(value=False)
_RULES: Final = {reason: pl.all_horizontal(tests) for reason, tests in _RULES_BY_REASON.items()} | {
    "amount.format": pl.all_horizontal(_RULES_BY_REASON["amount.format"]) | _FINER,
    "amount.exponent": pl.all_horizontal(_RULES_BY_REASON["amount.exponent"]) & ~_FINER,
}
# A row that could not be read has no fields at all, which need not be said of each.
_UNREADABLE: Final = pl.all_horizontal(
    pl.col("extra_fields").str.starts_with(f'{{"{UNREADABLE}":').fill_null(value=False),
    *(pl.col(f"sent.{name}" if name in TEXT_PATTERNS else name).is_null() for name in SENT_COLUMNS),
)
# A field of that name that the source sends itself is text, and no list.
_REPEATS_A_FIELD: Final = (
    pl.col("extra_fields").str.starts_with(f'{{"{DUPLICATE_FIELD}":[').fill_null(value=False)
)


def _is_of_one_column(rule: pl.Expr) -> bool:
    return len({name.removeprefix("sent.") for name in rule.meta.root_names()}) == 1


# Rules of one column are judged once a value; those that look at several, once a row.
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
# Of these, most windows have few rows that can break them, or none: see `Validator.validate`.
_OF_AMOUNTS: Final = "amount.exponent"
_OF_REFUNDS: Final = "original_transaction_id.own_id"
_OF_ROWS: Final = [
    rule
    for reason, rules in _RULES_BY_REASON.items()
    for rule in rules
    if reason not in {_OF_AMOUNTS, _OF_REFUNDS} and not _is_of_one_column(rule)
]
_LOOKED_AT: Final = sorted({"transaction_at"}.union(*(rule.meta.root_names() for rule in _OF_ROWS)))
_WORKERS: Final = 2
_QUARANTINED: Final = encoded_schema(QUARANTINE_SCHEMA, DICTIONARY_ENCODED_COLUMNS)


class Validator:
    """Judges the batches of a window.

    Which rows conform is found column by column, values that repeat once each; the reasons are
    then looked for in the other rows alone, by the same rules. What was found of a dictionary is
    kept until another comes: the batches of one row group share theirs.
    """

    def __init__(self, window: Window, repeats: pl.DataFrame) -> None:
        """Args: window: what the rows were sent for; repeats: what `find_repeats` found in it."""
        self._window = window
        self._repeats = repeats
        self._dictionaries = {
            name: PerDictionary(partial(_Dictionary.of, name)) for name in SENT_COLUMNS
        }
        self._lack_decimals = PerDictionary(_lack_decimals)

    def validate(self, sent: pa.RecordBatch) -> ValidatedBatch:
        """Judge a batch.

        Args:
            sent: columns of `LANDED_SCHEMA`; positions ascend one by one.

        Raises:
            RuntimeError: a row was refused for no reason, which is an error in the rules.
        """
        with ThreadPoolExecutor(_WORKERS) as pool:
            judged = list(pool.map(self._column, SENT_COLUMNS, map(sent.column, SENT_COLUMNS)))
        conforms = np.ones(sent.num_rows, dtype=np.bool_)
        for column in judged:
            if column.conforms is not None:
                conforms &= column.conforms
        typed = pa.RecordBatch.from_arrays(
            [column.typed for column in judged], schema=CONFORMING_SCHEMA
        )
        whole_rows = as_frame(typed.select(_LOOKED_AT))
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
            places = self._repeats["position"].to_numpy() - sent.column("position")[0].as_py()
            conforms[places[(places >= 0) & (places < sent.num_rows)]] = False
        if conforms.all():
            return ValidatedBatch(typed, empty(_QUARANTINED))
        return ValidatedBatch(
            typed.filter(boolean(conforms)),
            _reasoned(few(sent, ~conforms), self._window, self._repeats),
        )

    def _column(self, name: str, column: pa.Array[Any]) -> _Column:
        if not isinstance(column, pa.DictionaryArray):
            values, good = _validate_values(name, column)
            typed = column if name not in TEXT_PATTERNS else values.to_arrow()
            return _Column(typed, None if good.all() else good.to_numpy())
        encoded = cast("DictionaryEncoded", column)
        judged = self._dictionaries[name](encoded.dictionary).column(encoded)
        if name in TEXT_PATTERNS:
            plain = judged.typed.cast(CONFORMING_SCHEMA.field(name).type)
            return _Column(plain, judged.conforms)
        return judged


def _lack_decimals(currencies: pa.Array[Any]) -> NDArray[np.bool_]:
    """Which of k currencies, and of null behind them, have no decimals."""
    codes = pl.Series(currencies, dtype=pl.String).extend_constant(None, 1)
    return codes.is_in(WITHOUT_DECIMALS).fill_null(value=False).to_numpy()


def _hold(reason: str, rows: pa.RecordBatch, places: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Whether a reason's rules hold of the rows at some places."""
    rules = pl.all_horizontal(_RULES_BY_REASON[reason])
    some = rows.select(sorted({*rules.meta.root_names()})).take(cast("Any", integers(places)))
    return as_frame(some).select(rules).to_series().to_numpy()


@dataclass(frozen=True)
class _Column:
    """A column of n rows, judged.

    Attributes:
        typed: n values of the type that `CONFORMING_SCHEMA` says, null where there is none; a
            dictionary has only values that conform.
        conforms: n truth values; None when all are true.
    """

    typed: pa.Array[Any]
    conforms: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Dictionary:
    """A dictionary of k values, judged.

    Attributes:
        typed: the values of the type that `CONFORMING_SCHEMA` says: all k, null where there is
            none; of a column that stays a dictionary, those that conform.
        conforms: k + 1 truth values, the last of them null's.
        places: for each of k + 1 values its place in `typed`, -1 where it has none; None when they
            are the same.
    """

    typed: pa.Array[Any]
    conforms: NDArray[np.bool_]
    places: NDArray[np.int32] | None

    @classmethod
    def of(cls, name: str, sent: pa.Array[Any]) -> Self:
        """Judge the values of a column."""
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
        places = np.where(kept, np.cumsum(kept) - 1, -1).astype(np.int32)
        return cls(sent.filter(boolean(kept[:-1])), conforms, places)

    def column(self, encoded: DictionaryEncoded) -> _Column:
        """Rows over this dictionary, judged."""
        indices = indices_of(encoded)
        good = self.conforms if encoded.null_count else self.conforms[:-1]
        conforms = None if good.all() else self.conforms[indices]
        if self.places is None:
            return _Column(recoded(encoded, self.typed), conforms)
        return _Column(renumbered(indices, self.places, self.typed), conforms)


def _validate_values(name: str, texts: pl.Series | pa.Array[Any]) -> tuple[pl.Series, pl.Series]:
    """Texts parsed, and whether each conforms to the rules of its column alone."""
    sent = pl.Series(name, texts, dtype=pl.String)
    values = _parse(sent, texts) if name in TEXT_PATTERNS else sent
    frame = pl.DataFrame([values, sent.alias(f"sent.{name}")])
    return values, frame.select(_OF_ONE_COLUMN[name]).to_series()


def _reasoned(sent: pa.RecordBatch, window: Window, repeats: pl.DataFrame) -> pa.RecordBatch:
    """Rows that do not conform, as the quarantine keeps them."""
    judged = (
        as_frame(sent)
        .lazy()
        .join(repeats.lazy(), on="position", how="left", maintain_order="left")
        .with_columns(_PARSERS)
        .with_columns(
            *(rule.alias(f"rule.{reason}") for reason, rule in _RULES.items()),
            _is_inside(window).alias(f"rule.{OUTSIDE_WINDOW}"),
            _UNREADABLE.alias("rule.unreadable"),
            _REPEATS_A_FIELD.alias("rule.duplicate_field"),
        )
        .collect()
    )
    unreadable = judged["rule.unreadable"]
    reasons = _every_reason(
        {UNREADABLE_ROW: unreadable, DUPLICATE_FIELD_ROW: judged["rule.duplicate_field"]}
        | {reason: ~judged[f"rule.{reason}"] & ~unreadable for reason in (*_RULES, OUTSIDE_WINDOW)}
        | {repeat: judged["repeat"] == repeat for repeat in (DUPLICATE, CONFLICT)}
    )
    if not (reasons.list.len() > 0).all():
        raise RuntimeError("a row was refused for no reason")
    count = sent.num_rows
    columns: dict[str, pa.Array[Any]] = {
        **{name: sent.column(name) for name in sent.schema.names},
        "reasons": reasons.to_arrow(),
        "window_start": pl.repeat(window.start, count, eager=True).to_arrow(),
        "contract_version": pl.repeat(CONTRACT_VERSION, count, eager=True).to_arrow(),
    }
    return as_batch(pa.Table.from_pydict(columns), _QUARANTINED)


def _every_reason(holds: dict[str, pl.Series]) -> pl.Series:
    """For each of n rows the reasons that hold of it, in the order they are given.

    Args:
        holds: for each reason n truth values; null is false.
    """
    rows = [of_reason.fill_null(value=False).arg_true().to_numpy() for of_reason in holds.values()]
    of_rows = np.concatenate(rows)
    kinds = np.repeat(np.arange(len(rows), dtype=np.int32), [len(found) for found in rows])
    order = np.argsort(of_rows, kind="stable")
    counts = np.bincount(of_rows, minlength=len(next(iter(holds.values()))))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    names = pl.Series(list(holds)).gather(kinds[order])
    return pl.Series(
        "reasons",
        pa.ListArray.from_arrays(cast("Any", integers(offsets)), names.to_arrow()),
        dtype=pl.List(pl.String),
    )


def _is_inside(window: Window) -> pl.Expr:
    at = pl.col("transaction_at")
    return at.is_between(window.start, window.end, closed="left").fill_null(value=True)


def find_repeats(batches: Batches) -> pl.DataFrame:
    """Well-formed ids that a window holds more than once.

    Identical copies, in every field, keep the first; an id with differing contents keeps none.

    Args:
        batches: gives the window's rows as sent, columns of `LANDED_SCHEMA`; see `repeated_ids`.

    Returns:
        `position` and `repeat`, the reason, of every row that must not be published.
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
