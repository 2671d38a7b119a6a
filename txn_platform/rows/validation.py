"""Validation of rows: each conforms and is typed, or is quarantined with every reason.

The rules are in `contract`. Uniqueness is checked over a whole window, all other rules row by row,
so that a window can be streamed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from txn_platform.contract.card_numbers import CARD_NUMBER_RULE
from txn_platform.contract.model import DUPLICATE_FIELD, EXTRA_FIELDS, UNREADABLE
from txn_platform.contract.reasons import (
    DUPLICATE_FIELD_ROW,
    UNREADABLE_ROW,
    conflict,
    duplicate,
    outside_window,
    reason_of,
    rules_of,
)
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.rows.duplicates import repeated_ids
from txn_platform.rows.timestamps import parse_timestamps

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from numpy.typing import NDArray

    from txn_platform.arrow.dictionaries import DictionaryEncoded
    from txn_platform.contract.model import Contract
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
        conforming: columns of the contract's `conforming_schema`, typed, in the order sent.
        quarantined: columns of its `quarantine_schema`, as sent, in the order sent.
        rows_by_reason: the indices of the quarantined rows by reason.
    """

    conforming: pa.RecordBatch
    quarantined: pa.RecordBatch
    rows_by_reason: RowsByReason = field(default_factory=dict[str, "NDArray[np.int64]"])


# The source may send a field of this name; its value is then text, not a list.
_REPEATS_A_FIELD: Final = (
    pl.col(EXTRA_FIELDS).str.starts_with(f'{{"{DUPLICATE_FIELD}":[').fill_null(value=False)
)
_WORKERS: Final = 2


def _parse(
    contract: Contract, name: str, sent: pl.Series, texts: pl.Series | pa.Array[Any]
) -> pl.Series:
    """Texts as values, null where the text does not have the contract's form."""
    pattern = contract.forms[name]
    parse = contract.option(name, "parse")
    dtype = contract.columns[name].dtype
    if parse is None and isinstance(dtype, pl.Datetime):
        times = parse_timestamps(texts, pattern).alias(name)
        # No time of a window is outside these years.
        return times if name == contract.time else _of_known_years(times)
    formed = sent.str.contains(pattern)
    all_formed = formed.all(ignore_nulls=False)
    if parse is not None:
        some = sent if all_formed else pl.select(pl.when(formed).then(sent)).to_series()
        try:
            parsed = parse(some).cast(dtype, strict=False).alias(name)
        except Exception as error:
            # Its text can have a value of a row.
            raise _raised(f"the parse of the column {name!r}", error) from None
        if len(parsed) != len(some):
            raise UserError(
                f"the parse of the column {name!r} gave {len(parsed):,} values for"
                f" {len(some):,} texts: let it give null for a text that is no value"
            )
        return parsed
    if dtype == pl.Boolean():
        values = sent == "true"
    elif dtype == pl.Date():
        values = _of_known_years(sent.str.to_date("%Y-%m-%d", strict=False))
    else:
        values = sent.cast(dtype, strict=False)
    if all_formed:
        return values.alias(name)
    return pl.select(pl.when(formed).then(values).alias(name)).to_series()


def _of_known_years(times: pl.Series) -> pl.Series:
    """The same, null outside the years 1 to 9999, which alone all readers know."""
    return times.set(~times.dt.year().is_between(1, 9999), None)


def _raised(what: str, error: Exception) -> UserError:
    return UserError(
        f"{what} raised {type(error).__name__} for a value of a row: let it give false or null for"
        " a value that it cannot read"
    )


class _Rules:
    """The rules of a contract as expressions, made once for all batches.

    They refer to a parsed value by its column's name, and to its text by `sent.` and the name.

    Attributes:
        by_reason: for every reason, the expressions that must all be true; never null.
        whole: the same as one expression each. It also tells the reasons of texts without the form
            of their column apart.
        of_one_column: by column, its rules that need no other column: evaluated once for each
            value.
        of_few_rows: for a reason that few rows can have, the column and the expression that find
            these rows. Its rules are evaluated for them only.
        of_rows: all other rules, evaluated for each row.
        row_columns: the columns that these need.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.by_reason = self._by_reason()
        self.whole = self._whole()
        self.of_one_column = {
            name: pl.all_horizontal(
                *(
                    rule
                    for reason, rules in self.by_reason.items()
                    if reason.partition(".")[0] == name
                    for rule in rules
                    if _is_of_one_column(rule)
                ),
                pl.lit(value=True),
            )
            for name in contract.names
        }
        self.of_few_rows = {
            reason_of(name, f"check__{check}"): condition
            for name in contract.names
            for check, condition in (contract.option(name, "only_where") or {}).items()
        }
        self.of_rows = [
            rule
            for reason, rules in self.by_reason.items()
            for rule in rules
            if reason not in self.of_few_rows and not _is_of_one_column(rule)
        ]
        self.row_columns = sorted(
            {contract.time}.union(*(rule.meta.root_names() for rule in self.of_rows))
        )

    @contextmanager
    def evaluated_on(self, rows: pl.DataFrame) -> Generator[None]:
        """Name the check that raises an error on these rows.

        Raises:
            UserError: a check of the contract's own raised it.
        """
        try:
            yield
        except Exception:
            for reason, rule in self.by_reason.items():
                self._require_result(reason, rule, rows)
            raise

    def _require_result(self, reason: str, rules: list[pl.Expr], rows: pl.DataFrame) -> None:
        for rule in rules:
            if {*rule.meta.root_names()} <= {*rows.columns}:
                try:
                    rows.select(rule)
                except Exception as error:
                    raise _raised(f"the check of {reason}", error) from None

    def _by_reason(self) -> dict[str, list[pl.Expr]]:
        rules: dict[str, list[pl.Expr]] = {}
        for name, column in self.contract.columns.items():
            value = pl.col(name)
            found = rules_of(self.contract, name, value)
            if "max_length" in found:
                # A text that is too long may have megabytes, so no other rule reads it.
                short = found["max_length"].fill_null(value=True)
                text = pl.when(short).then(value).otherwise(pl.lit(""))
                found = rules_of(self.contract, name, text) | {"max_length": found["max_length"]}
            if name in self.contract.forms:
                # A value that was not parsed is malformed. Only absent text is missing.
                text = pl.col(f"sent.{name}")
                if not column.nullable:
                    found["nullability"] = text.is_not_null()
                found["text"] = value.is_not_null() | text.is_null()
            # Other rules make no sense for a value that does not have the right form. That it holds
            # a card number is said in any case.
            well_formed = found.get("regex", pl.lit(value=True)).fill_null(value=True)
            for rule, expression in found.items():
                if rule.startswith("check") and rule != CARD_NUMBER_RULE:
                    expression |= ~well_formed  # noqa: PLW2901
                rules.setdefault(reason_of(name, rule), []).append(expression.fill_null(value=True))
        return rules

    def _whole(self) -> dict[str, pl.Expr]:
        whole = {reason: pl.all_horizontal(rules) for reason, rules in self.by_reason.items()}
        for name in self.contract.names:
            for check, is_it in (self.contract.option(name, "text_problems") or {}).items():
                found = is_it.fill_null(value=False)
                whole[reason_of(name, "text")] |= found
                whole[reason_of(name, f"check__{check}")] &= ~found
        return whole

    def parsers(self) -> list[pl.Expr]:
        """For each column that is parsed, an expression of its values and one of its text."""
        expressions: list[pl.Expr] = []
        for name in self.contract.forms:
            text = pl.col(name)
            value = text.map_batches(
                lambda texts, name=name: _parse(self.contract, name, texts, texts),
                return_dtype=self.contract.columns[name].dtype,
            )
            expressions += [value.alias(name), text.alias(f"sent.{name}")]
        return expressions

    def unreadable(self) -> pl.Expr:
        """Whether a row could not be read. It has no fields, and no other reason."""
        contract = self.contract
        return pl.all_horizontal(
            pl.col(EXTRA_FIELDS).str.starts_with(f'{{"{UNREADABLE}":').fill_null(value=False),
            *(
                pl.col(f"sent.{name}" if name in contract.forms else name).is_null()
                for name in contract.names
            ),
        )

    def is_inside(self, window: Window) -> pl.Expr:
        """Whether the time of a row is within a window, if it has one."""
        at = pl.col(self.contract.time)
        return at.is_between(window.start, window.end, closed="left").fill_null(value=True)

    def validate_values(
        self, name: str, texts: pl.Series | pa.Array[Any]
    ) -> tuple[pl.Series, pl.Series]:
        """Parsed texts, and whether each obeys the rules of its column alone."""
        sent = pl.Series(name, texts, dtype=pl.String)
        values = _parse(self.contract, name, sent, texts) if name in self.contract.forms else sent
        frame = pl.DataFrame([values, sent.alias(f"sent.{name}")])
        # A column without rules has one value of them all.
        with self.evaluated_on(frame):
            good = frame.with_columns(self.of_one_column[name].alias("good"))["good"]
        return values, good

    def hold(
        self, reason: str, rows: pa.RecordBatch, indices: NDArray[np.integer[Any]]
    ) -> NDArray[np.bool_]:
        """Whether the rows at the given indices obey the rules of a reason."""
        rules = pl.all_horizontal(self.by_reason[reason])
        some = rows.select(sorted({*rules.meta.root_names()})).take(cast("Any", integers(indices)))
        frame = as_frame(some)
        with self.evaluated_on(frame):
            return frame.select(rules).to_series().to_numpy()


def _is_of_one_column(rule: pl.Expr) -> bool:
    return len({name.removeprefix("sent.") for name in rule.meta.root_names()}) == 1


class Validator:
    """Validates the batches of a window.

    The first step finds the rows that conform, column by column. A dictionary's values are
    validated once, and the result is kept until another dictionary comes, because the batches of a
    row group share theirs. The second step evaluates the same rules for each reason, on the other
    rows only.
    """

    def __init__(
        self, window: Window, repeats: pl.DataFrame, contract: Contract = TRANSACTIONS
    ) -> None:
        """Validate the rows of a window.

        Args:
            window: the rows were requested for it.
            repeats: the result of `find_repeats`.
            contract: to hold them against.
        """
        self._window = window
        self._repeats = repeats
        self._contract = contract
        self._rules = _Rules(contract)
        self._quarantined = encoded_schema(contract.quarantine_schema, contract.dictionary_encoded)
        self._dictionaries = {
            name: PerDictionary(partial(_Dictionary.of, self._rules, name))
            for name in contract.names
        }
        self._conditions = {
            reason: PerDictionary(partial(_meet, condition))
            for reason, condition in self._rules.of_few_rows.items()
        }

    def validate(self, sent: pa.RecordBatch) -> ValidatedBatch:
        """Validate a batch.

        Args:
            sent: columns of the contract's `landed_schema`; each position is one above the position
                before.

        Raises:
            RuntimeError: a row does not conform and has no reason, which is an error in the rules.
        """
        names, rules = self._contract.names, self._rules
        with ThreadPoolExecutor(_WORKERS) as pool:
            columns = list(pool.map(self._column, names, map(sent.column, names)))
        conforms = np.ones(sent.num_rows, dtype=np.bool_)
        for column in columns:
            if column.conforms is not None:
                conforms &= column.conforms
        typed = pa.RecordBatch.from_arrays(
            [column.typed for column in columns], schema=self._contract.conforming_schema
        )
        whole_rows = as_frame(typed.select(rules.row_columns))
        with rules.evaluated_on(whole_rows):
            in_place = whole_rows.select(
                pl.all_horizontal(*rules.of_rows, rules.is_inside(self._window))
            )
        conforms &= in_place.to_series().to_numpy()
        for reason in rules.of_few_rows:
            few_rows = self._rows_of_condition(reason, typed, whole_rows)
            if len(few_rows):
                conforms[few_rows] &= rules.hold(reason, typed, few_rows)
        if sent.column(EXTRA_FIELDS).null_count < sent.num_rows:
            extra = as_frame(sent.select([EXTRA_FIELDS]))
            conforms &= ~extra.select(_REPEATS_A_FIELD).to_series().to_numpy()
        if self._repeats.height and sent.num_rows:
            indices = self._repeats["position"].to_numpy() - sent.column("position")[0].as_py()
            conforms[indices[(indices >= 0) & (indices < sent.num_rows)]] = False
        if conforms.all():
            return ValidatedBatch(typed, empty(self._quarantined))
        rest = few(sent, ~conforms)
        rows_by_reason = _rows_by_reason(rest, self._window, self._repeats, rules)
        return ValidatedBatch(
            typed.filter(boolean(conforms)), self._kept(rest, rows_by_reason), rows_by_reason
        )

    def _column(self, name: str, column: pa.Array[Any]) -> _Column:
        is_parsed = name in self._contract.forms
        if not isinstance(column, pa.DictionaryArray):
            values, good = self._rules.validate_values(name, column)
            kind = self._contract.conforming_schema.field(name).type
            typed = values.to_arrow().cast(kind) if is_parsed else column
            return _Column(typed, None if good.all() else good.to_numpy())
        encoded = cast("DictionaryEncoded", column)
        validated = self._dictionaries[name](encoded.dictionary).column(encoded)
        if is_parsed:
            plain = validated.typed.cast(self._contract.conforming_schema.field(name).type)
            return _Column(plain, validated.conforms)
        return validated

    def _rows_of_condition(
        self, reason: str, typed: pa.RecordBatch, whole_rows: pl.DataFrame
    ) -> NDArray[np.integer[Any]]:
        """The indices of the rows that can have a reason that few rows have."""
        condition = self._rules.of_few_rows[reason]
        (name,) = condition.meta.root_names()
        column = typed.column(name)
        if isinstance(column, pa.DictionaryArray):
            encoded = cast("DictionaryEncoded", column)
            meets = self._conditions[reason](encoded.dictionary)
            if not meets.any():
                return np.empty(0, np.int64)
            return np.flatnonzero(meets[indices_of(encoded)])
        rows = whole_rows if name in whole_rows.columns else as_frame(typed.select([name]))
        return rows.select(condition.fill_null(value=False)).to_series().arg_true().to_numpy()

    def _kept(self, sent: pa.RecordBatch, rows_by_reason: RowsByReason) -> pa.RecordBatch:
        """Rows that do not conform, with the columns of the contract's `quarantine_schema`."""
        count = sent.num_rows
        columns: dict[str, pa.Array[Any]] = {
            **{name: sent.column(name) for name in sent.schema.names},
            "reasons": _reasons_of_rows(rows_by_reason, count),
            "window_start": pl.repeat(self._window.start, count, eager=True).to_arrow(),
            "contract_version": pl.repeat(self._contract.version, count, eager=True).to_arrow(),
        }
        return as_batch(pa.Table.from_pydict(columns), self._quarantined)


def _meet(condition: pl.Expr, values: pa.Array[Any]) -> NDArray[np.bool_]:
    """Which of k values meet a condition; the last of k + 1 truth values is null's."""
    (name,) = condition.meta.root_names()
    column = pl.Series(name, values, dtype=pl.String).extend_constant(None, 1)
    return column.to_frame().select(condition.fill_null(value=False)).to_series().to_numpy()


@dataclass(frozen=True)
class _Column:
    """A validated column of n rows.

    Attributes:
        typed: n values of the type in the contract's `conforming_schema`, null where the text is
            no such value. A dictionary has conforming values only.
        conforms: n truth values; None when all are true.
    """

    typed: pa.Array[Any]
    conforms: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Dictionary:
    """A validated dictionary of k values.

    Attributes:
        typed: values of the type in the contract's `conforming_schema`. For a column that stays a
            dictionary, the conforming values; for another, all k, null where the text is no such
            value.
        conforms: k + 1 truth values; the last is null's.
        indices: for each of the k + 1 values its index in `typed`, -1 for none; None when every
            value keeps its index.
    """

    typed: pa.Array[Any]
    conforms: NDArray[np.bool_]
    indices: NDArray[np.int32] | None

    @classmethod
    def of(cls, rules: _Rules, name: str, sent: pa.Array[Any]) -> Self:
        """Validate the dictionary of a column."""
        values, good = rules.validate_values(
            name, pl.Series(sent, dtype=pl.String).extend_constant(None, 1)
        )
        conforms = good.to_numpy()
        if name in rules.contract.forms:
            kind = rules.contract.conforming_schema.field(name).type
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


def _rows_by_reason(
    sent: pa.RecordBatch, window: Window, repeats: pl.DataFrame, rules: _Rules
) -> dict[str, NDArray[np.int64]]:
    """For each reason the indices of its rows, in the order of `reasons`; no reason without rows.

    Args:
        sent: the rows that do not conform, columns of the contract's `landed_schema`.
        window: the rows were requested for it.
        repeats: the result of `find_repeats`.
        rules: of the contract.
    """
    outside = outside_window(rules.contract)
    of_ids = (duplicate(rules.contract), conflict(rules.contract))
    tested = (
        as_frame(sent)
        .lazy()
        .join(repeats.lazy(), on="position", how="left", maintain_order="left")
        .with_columns(rules.parsers())
        .select(
            "repeat",
            *(rule.alias(reason) for reason, rule in rules.whole.items()),
            rules.is_inside(window).alias(outside),
            rules.unreadable().alias(UNREADABLE_ROW),
            _REPEATS_A_FIELD.alias(DUPLICATE_FIELD_ROW),
        )
        .collect()
    )
    readable = ~tested[UNREADABLE_ROW]
    holds = {name: tested[name] for name in (UNREADABLE_ROW, DUPLICATE_FIELD_ROW)}
    holds |= {reason: ~tested[reason] & readable for reason in (*rules.whole, outside)}
    holds |= {reason: tested["repeat"] == reason for reason in of_ids}
    found = {
        reason: of_rows.fill_null(value=False).arg_true().to_numpy().astype(np.int64)
        for reason, of_rows in holds.items()
    }
    return {reason: rows for reason, rows in found.items() if len(rows)}


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


def find_repeats(batches: Batches, contract: Contract = TRANSACTIONS) -> pl.DataFrame:
    """The rows that share a well-formed id with another row and must not be published.

    If all rows with an id are equal in every field, the first of them may be published. If they
    differ, none may.

    Args:
        batches: gives the window's rows as sent, columns of the contract's `landed_schema`; see
            `repeated_ids`.
        contract: of the rows.

    Returns:
        `position` and `repeat` of each such row; `repeat` is the reason.
    """
    name = contract.id
    well_formed = rules_of(contract, name, pl.col(name))
    copies = (
        repeated_ids(batches, contract)
        .filter(pl.all_horizontal(*well_formed.values()).fill_null(value=False))
        .select(
            "position",
            pl.col(name).alias("id"),
            pl.struct(pl.exclude("position")).hash(seed=0).alias("content"),
        )
    )
    same_id = pl.col("content").n_unique().over("id") == 1
    return copies.select(
        "position",
        repeat=pl.when(~same_id)
        .then(pl.lit(conflict(contract)))
        .when(pl.col("position") != pl.col("position").min().over("id"))
        .then(pl.lit(duplicate(contract))),
    ).drop_nulls("repeat")
