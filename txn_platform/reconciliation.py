"""Control totals: what a set of rows amounts to, and the comparison of two such statements.

Pure. Where totals come from (the source's statement, a file's rows) is `source.py`'s and the
assets' matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from txn_platform.text_columns import by_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_PLAIN_DECIMAL = r"^-?[0-9]{1,16}(\.[0-9]{1,2})?$"
_DIGEST_MODULUS = 1 << 64


class _Statement(BaseModel):
    """Control totals as they are written down, in the source's answer and in a file's footer."""

    model_config = ConfigDict(extra="ignore")

    rows: int = Field(ge=0)
    amount_by_type: dict[str, Decimal]
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
        types = sorted({*self.amount_by_type, *other.amount_by_type})
        return ControlTotals(
            rows=self.rows + other.rows,
            amount_by_type={
                kind: self.amount_by_type.get(kind, Decimal(0))
                + other.amount_by_type.get(kind, Decimal(0))
                for kind in types
            },
            ids_digest=(self.ids_digest + other.ids_digest) % _DIGEST_MODULUS,
        )

    def __sub__(self, other: ControlTotals) -> ControlTotals:
        """What is left when rows are taken away; `other` must be of rows that are in these."""
        negated = ControlTotals(
            -other.rows,
            {kind: -total for kind, total in other.amount_by_type.items()},
            -other.ids_digest,
        )
        return self + negated

    @property
    def amount(self) -> Decimal:
        """The sum over all types."""
        return sum(self.amount_by_type.values(), Decimal("0.00"))

    @classmethod
    def of(cls, rows: pl.DataFrame) -> ControlTotals:
        """The totals of rows, as sent (text) or typed.

        Args:
            rows: columns `transaction_id`, `transaction_type`, `amount` (text or decimal).
        """
        amount = pl.col("amount")
        if rows.schema["amount"] == pl.String:
            amount = pl.when(amount.str.contains(_PLAIN_DECIMAL)).then(amount)
        sums = (
            rows.lazy()
            .group_by(pl.col("transaction_type").cast(pl.String))
            .agg(amount.cast(pl.Decimal(38, 2), strict=False).sum())
            .sort("transaction_type", nulls_last=True)
            .collect()
        )
        return cls(
            rows=rows.height,
            amount_by_type={kind or "": total for kind, total in sums.iter_rows()},
            ids_digest=int(
                id_hashes(rows["transaction_id"]).sum(dtype=np.uint64),
            ),
        )

    @classmethod
    def parse(cls, text: str | bytes) -> ControlTotals:
        """Read a statement from JSON.

        Raises:
            ValueError: it is not one.
        """
        statement = _Statement.model_validate_json(text)
        return cls(statement.rows, statement.amount_by_type, int(statement.ids_digest, 16))

    def to_json(self) -> str:
        """The statement as JSON, the same text for the same totals."""
        return _Statement(
            rows=self.rows,
            amount_by_type={
                kind: self.amount_by_type[kind].quantize(Decimal("0.01"))
                for kind in sorted(self.amount_by_type)
            },
            ids_digest=f"{self.ids_digest:016x}",
        ).model_dump_json()

    @property
    def digest(self) -> str:
        """The ids' digest for people: cut in two, so that it is never taken for a card number."""
        return f"{self.ids_digest >> 32:08x}-{self.ids_digest & 0xFFFFFFFF:08x}"

    def differences(self, other: ControlTotals) -> list[str]:
        """What is not equal, each as one phrase `what: ours, theirs`; empty when all is equal."""
        found: list[str] = []
        if self.rows != other.rows:
            found.append(f"rows: {self.rows:,} against {other.rows:,}")
        for kind in sorted({*self.amount_by_type, *other.amount_by_type}):
            ours, theirs = (totals.amount_by_type.get(kind, Decimal(0)) for totals in (self, other))
            if ours != theirs:
                found.append(f"amount of {kind or 'no type'}: {ours:,} against {theirs:,}")
        if self.ids_digest != other.ids_digest:
            found.append(f"digest of ids: {self.digest} against {other.digest}")
        return found


def id_hashes(ids: pl.Series) -> NDArray[np.uint64]:
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
        padded = np.zeros((count, -(-length // 8) * 8), dtype=np.uint8)
        padded[:, :length] = texts
        words = padded.view("<u8")
        state = _mix(np.full(count, length, dtype=np.uint64))
        for word in range(words.shape[1]):
            state = _mix(state ^ words[:, word])
        hashes[rows] = state
    return hashes


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def repeated_ids(batches: Callable[[], Iterator[pl.DataFrame]]) -> pl.DataFrame:
    """The rows whose id occurs more than once.

    Args:
        batches: yields frames with at least `transaction_id`, text, one at least; called once, and
            again when some id's hash repeats. Takes 8 bytes of memory a row.

    Returns:
        The rows, all columns, in the order they came.
    """
    hashes = [id_hashes(batch["transaction_id"]) for batch in batches()]
    ordered = np.sort(np.concatenate(hashes))
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(suspects):
        return next(batches()).clear()
    rows = pl.concat(
        batch.filter(pl.Series(np.isin(id_hashes(batch["transaction_id"]), suspects)))
        for batch in batches()
    )
    return rows.filter(pl.col("transaction_id").is_duplicated())
