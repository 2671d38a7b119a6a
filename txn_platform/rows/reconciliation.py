"""Control totals: count, sums and digest of a set of rows, and the comparison of two of them.

Pure. Totals come from the source's statement (`source/client`) or from a file's rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, cast

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from txn_platform.arrow.dictionaries import as_frame, few, values_and_indices
from txn_platform.arrow.text import by_length, words
from txn_platform.contract.schema import TRANSACTION_TYPES
from txn_platform.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_UUID_LENGTH: Final = 36
_PLAIN_DECIMAL = r"^-?[0-9]{1,16}(\.[0-9]{1,2})?$"
_DIGEST_MODULUS = 1 << 64
# Python's own context rounds to 28 digits.
_EXACT: Final = Context(prec=60)
_CENT: Final = Decimal("0.01")
_MOST_ROWS: Final = (1 << 63) - 1
_MOST_DIGITS: Final = 36
_MOST_DECIMALS: Final = 18
# So many differences are named.
_NAMED: Final = 20


class Batches(Protocol):
    """The rows of a window, batch by batch, as often as it is called."""

    def __call__(self, columns: list[str] | None, /) -> Iterator[pa.RecordBatch]:
        """The columns of the given names; all for None."""
        ...


def _decimal(text: str) -> Decimal:
    """A JSON number by its digits; one of a billion digits is none."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        # Its exponent has more than 18 digits.
        raise ValueError from None
    if not number.is_zero() and abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError
    return number


def _require_amount(amount: Decimal) -> Decimal:
    """An amount that can be added and written down without rounding."""
    if amount.is_zero():
        return Decimal("0.00")
    if not amount.is_finite():
        raise ValueError
    decimals = -cast("int", amount.as_tuple().exponent)
    if amount.adjusted() >= _MOST_DIGITS or decimals > _MOST_DECIMALS:
        raise ValueError
    return amount


class _Statement(BaseModel):
    """Control totals as they are written down, in the source's answer and in a file's footer."""

    model_config = ConfigDict(extra="ignore")

    rows: int = Field(ge=0, le=_MOST_ROWS)
    amount_by_type: dict[str, Annotated[Decimal, AfterValidator(_require_amount)]]
    ids_digest: str = Field(pattern=r"^[0-9a-f]{16}$")


@dataclass(frozen=True)
class ControlTotals:
    """Rows, sum of amounts by transaction type, and a digest of the ids.

    The three are additive: the totals of two disjoint sets of rows add up to the totals of their
    union, in whatever order the rows come. Only amounts that are plain decimals with at most two
    places count; a row without one counts as a row only.

    Attributes:
        rows: how many.
        amount_by_type: sums in the currency's unit, scale 2; a type without rows is absent.
        ids_digest: the sum of `id_hashes` modulo 2**64.
    """

    rows: int = 0
    amount_by_type: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])
    ids_digest: int = 0

    def __add__(self, other: ControlTotals) -> ControlTotals:
        amounts = dict(self.amount_by_type)
        for kind, total in other.amount_by_type.items():
            amounts[kind] = _EXACT.add(amounts.get(kind, Decimal(0)), total)
        return ControlTotals(
            rows=self.rows + other.rows,
            amount_by_type=amounts,
            ids_digest=(self.ids_digest + other.ids_digest) % _DIGEST_MODULUS,
        )

    def __sub__(self, other: ControlTotals) -> ControlTotals:
        """The totals of the rows without those of `other`, which must be among them."""
        negated = ControlTotals(
            -other.rows,
            {kind: total.copy_negate() for kind, total in other.amount_by_type.items()},
            -other.ids_digest,
        )
        return self + negated

    @property
    def amount(self) -> Decimal:
        """The sum over all types."""
        return _plain(reduce(_EXACT.add, self.amount_by_type.values(), Decimal(0)))

    @classmethod
    def of(
        cls, rows: pa.RecordBatch | pl.DataFrame, hashes: NDArray[np.uint64] | None = None
    ) -> ControlTotals:
        """The totals of rows, as sent (text) or typed.

        Args:
            rows: columns `transaction_id`, `transaction_type`, `amount` (text or decimal).
            hashes: the `id_hashes` of the rows, where they are known.
        """
        if hashes is None:
            hashes = id_hashes(rows["transaction_id"])
        sums = (
            pl.LazyFrame({"type": rows["transaction_type"], "amount": _amounts(rows["amount"])})
            .group_by("type")
            .agg(pl.col("amount").sum())
            .with_columns(pl.col("type").cast(pl.String))
            .sort("type", nulls_last=True)
            .collect()
        )
        return cls(
            rows=len(hashes),
            amount_by_type={kind or "": total for kind, total in sums.iter_rows()},
            ids_digest=int(hashes.sum(dtype=np.uint64)),
        )

    @classmethod
    def parse(
        cls,
        text: str | bytes,
        members: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
    ) -> ControlTotals:
        """Read a statement from JSON.

        Args:
            text: the statement.
            members: makes an object of its members, as `json.loads` takes it; it may refuse them.

        Raises:
            ValueError: it is not one.
        """
        try:
            # A float would round what is written as a number.
            sent = json.loads(text, parse_float=_decimal, object_pairs_hook=members)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        statement = _Statement.model_validate(sent)
        amounts = {kind: _plain(total) for kind, total in statement.amount_by_type.items()}
        for kind in amounts:
            # Half of a surrogate pair is no text (a UnicodeEncodeError is a ValueError).
            kind.encode()
        return cls(statement.rows, amounts, int(statement.ids_digest, 16))

    def to_json(self) -> str:
        """The statement as JSON, the same text for the same totals."""
        return _Statement(
            rows=self.rows,
            amount_by_type={
                kind: _plain(self.amount_by_type[kind]) for kind in sorted(self.amount_by_type)
            },
            ids_digest=f"{self.ids_digest:016x}",
        ).model_dump_json()

    @property
    def digest(self) -> str:
        """The ids' digest for people: cut in two, so that it is never taken for a card number."""
        return f"{self.ids_digest >> 32:08x}-{self.ids_digest & 0xFFFFFFFF:08x}"

    def differences(self, other: ControlTotals) -> list[str]:
        """The differences, each as one phrase `what: ours, theirs`; empty when all is equal."""
        found: list[str] = []
        if self.rows != other.rows:
            found.append(f"rows: {self.rows:,} against {other.rows:,}")
        amounts: list[str] = []
        for kind in sorted({*self.amount_by_type, *other.amount_by_type}):
            ours, theirs = (totals.amount_by_type.get(kind, Decimal(0)) for totals in (self, other))
            if ours != theirs:
                of = kind if kind in TRANSACTION_TYPES else shown(kind) if kind else "no type"
                amounts.append(f"amount of {of}: {ours:,} against {theirs:,}")
        found += amounts[:_NAMED]
        if len(amounts) > _NAMED:
            found.append(f"amounts of {len(amounts) - _NAMED:,} more types")
        if self.ids_digest != other.ids_digest:
            found.append(f"digest of ids: {self.digest} against {other.digest}")
        return found


def _plain(amount: Decimal) -> Decimal:
    """An amount with two decimals, or as many as it has; never another amount."""
    return _EXACT.quantize(amount, _CENT) if amount == _EXACT.quantize(amount, _CENT) else amount


def _amounts(column: pl.Series | pa.Array[Any]) -> pl.Series:
    """Amounts as decimals, null where there is none that counts; n values."""
    if isinstance(column, pa.DictionaryArray):
        values, indices = values_and_indices(column)
        return _amounts(values).gather(indices)
    amounts = pl.Series(column)
    if amounts.dtype == pl.String:
        plain = amounts.str.contains(_PLAIN_DECIMAL)
        amounts = pl.select(pl.when(plain).then(amounts)).to_series()
    return amounts.cast(pl.Decimal(38, 2), strict=False)


def id_hashes(ids: pl.Series | pa.Array[Any]) -> NDArray[np.uint64]:
    """A 64-bit hash of every id; null counts as the empty text.

    With mix = the finalizer of splitmix64 after adding its increment: state = mix(byte length);
    then for the UTF-8 bytes, zero-padded to a multiple of 8 and read as little-endian words w,
    state = mix(state ^ w). The source computes the same by itself (its API documentation has the
    definition), so that agreement is evidence.

    Args:
        ids: text, n values.

    Returns:
        n hashes.

    Source: S. Vigna, splitmix64 (public domain), for mix.
    """
    hashes = np.empty(len(ids), dtype=np.uint64)
    for rows, texts in by_length(ids):
        count, length = texts.shape
        state = np.full(count, length, dtype=np.uint64)
        scratch = np.empty_like(state)
        _mix(state, scratch)
        for word in words(texts):
            state ^= word
            _mix(state, scratch)
        hashes[rows] = state
    return hashes


def _mix(state: NDArray[np.uint64], scratch: NDArray[np.uint64]) -> None:
    """In place: what is new to the cache costs more than the arithmetic."""
    state += np.uint64(0x9E3779B97F4A7C15)
    np.right_shift(state, np.uint64(30), out=scratch)
    state ^= scratch
    state *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(state, np.uint64(27), out=scratch)
    state ^= scratch
    state *= np.uint64(0x94D049BB133111EB)
    np.right_shift(state, np.uint64(31), out=scratch)
    state ^= scratch


class Repeats:
    """Looks for ids that occur more than once, as they pass by.

    Equal ids have equal times in them. So among rows that come in the order of those times, ids
    can only repeat close to each other; the hashes of the others are remembered. Of a source that
    sends in order memory stays flat, of any other it takes 8 bytes a row.
    """

    def __init__(self) -> None:
        self._near: list[NDArray[np.uint64]] = []
        self._strays: list[NDArray[np.uint64]] = []
        self._newest: int | None = None
        self._newest_hashes = np.empty(0, dtype=np.uint64)

    @property
    def suspected(self) -> bool:
        """Whether an id can have occurred twice; false is certain."""
        return any(map(len, self._near)) or any(map(len, self._strays))

    def add(self, ids: pa.Array[Any]) -> NDArray[np.uint64]:
        """Look at the next n ids; their `id_hashes`, for who needs them too."""
        hashes = id_hashes(ids)
        if not len(ids):
            return hashes
        times = _id_times(ids)
        if self._newest is None:
            self._newest = max(int(np.median(times)) - _LONGEST_JUMP_MS, 0)
        before = np.maximum.accumulate(np.concatenate([[self._newest], times]))
        if before[-1] - self._newest > 2 * _LONGEST_JUMP_MS:
            times[times > self._newest + 2 * _LONGEST_JUMP_MS] = -1
            before = np.maximum.accumulate(np.concatenate([[self._newest], times]))
        in_order = times >= before[:-1]
        self._strays.append(hashes[~in_order])
        ordered = np.sort(np.concatenate([self._newest_hashes, hashes[in_order]]))
        self._near.append(_repeated(ordered))
        latest = hashes[times == before[-1]]
        known = self._newest_hashes if before[-1] == self._newest else latest[:0]
        self._newest_hashes = np.concatenate([known, latest])
        self._newest = int(before[-1])
        return hashes

    def rows(self, batches: Batches) -> pl.DataFrame:
        """The rows whose id occurs more than once.

        Args:
            batches: gives the rows that were looked at anew each time it is called, one batch at
                least, with columns of given names, or with all.

        Returns:
            The rows, all columns, in the order they came.
        """
        empty = np.empty(0, dtype=np.uint64)
        near, strays = (
            np.unique(np.concatenate([*found, empty])) for found in (self._near, self._strays)
        )
        if len(strays) <= FEW_STRAYS:
            near = np.union1d(near, strays)
        else:
            met = [
                hashes[_are_in(hashes, strays)]
                for hashes in (
                    id_hashes(batch.column("transaction_id"))
                    for batch in batches(["transaction_id"])
                )
            ]
            near = np.union1d(near, _repeated(np.sort(np.concatenate(met))))
        found: list[pl.DataFrame] = []
        for batch in batches(None):
            suspect = np.zeros(batch.num_rows, dtype=np.bool_)
            if len(near):
                suspect = _are_in(id_hashes(batch.column("transaction_id")), near)
            found.append(as_frame(few(batch, suspect)))
            if not len(near):
                break
        return pl.concat(found).filter(pl.col("transaction_id").is_duplicated())


def repeated_ids(batches: Batches) -> pl.DataFrame:
    """The rows whose id occurs more than once; see `Repeats.rows`, for rows not looked at yet."""
    repeats = Repeats()
    for batch in batches(["transaction_id"]):
        repeats.add(batch.column("transaction_id"))
    return repeats.rows(batches)


# So many strays are held to be suspects, of more it is found out first which occur twice.
FEW_STRAYS: Final = 1 << 17
# Ids of a window are made within it, so one that jumps further ahead is none of those in order.
_LONGEST_JUMP_MS: Final = 3_600_000


def _id_times(ids: pa.Array[Any]) -> NDArray[np.int64]:
    """The milliseconds that UUIDs of version 7 begin with; -1 for what has not their length."""
    times = np.full(len(ids), -1, dtype=np.int64)
    for rows, texts in by_length(ids):
        if texts.shape[1] == _UUID_LENGTH:
            first, second = (_number(texts[:, places]) for places in (slice(8), slice(9, 13)))
            times[rows] = first << 16 | second
    return times


def _number(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The numbers that texts of up to eight hexadecimal digits stand for; n of both."""
    count, length = digits.shape
    text = np.zeros((count, 8), dtype=np.uint8)
    text[:, 8 - length :] = digits
    value = text.view(">u8")[:, 0].astype(np.uint64)
    # Eight digits at once: '0' to '9' are 0x30 to 0x39, 'a' to 'f' 0x61 to 0x66.
    letters = value >> np.uint64(6) & np.uint64(0x0101010101010101)
    value &= np.uint64(0x0F0F0F0F0F0F0F0F)
    value += letters * np.uint64(9)
    for bits, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0xFFFFFFFF)):
        value |= value >> np.uint64(bits)
        value &= np.uint64(mask)
    return value.view(np.int64)


def _repeated(ordered: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return ordered[1:][ordered[1:] == ordered[:-1]]


def _are_in(hashes: NDArray[np.uint64], ordered: NDArray[np.uint64]) -> NDArray[np.bool_]:
    places = np.searchsorted(ordered, hashes)
    return ordered[np.minimum(places, len(ordered) - 1)] == hashes
