"""Control totals: count, sums and digest of a set of rows, and how two totals differ.

The source states totals of its own (`source/client`); the others are counted here.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from txn_platform.arrow.dictionaries import values_and_indices
from txn_platform.contract.card_numbers import LENGTHS, card_number_spans, shows_card_number
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import shown
from txn_platform.rows.ids import id_hashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from txn_platform.contract.model import Contract

_DIGEST_MODULUS = 1 << 64
# Python's own context rounds to 28 digits.
_EXACT: Final = Context(prec=60)
# A code that a message shows as it is: no number, and too short for a secret.
_CODE: Final = re.compile(r"[A-Za-z_]{1,20}")
_CENT: Final = Decimal("0.01")
_MOST_ROWS: Final = (1 << 63) - 1
_MOST_DIGITS: Final = 36
_MOST_DECIMALS: Final = 18
# Differences that are named one by one.
_NAMED: Final = 20


def _decimal(text: str) -> Decimal:
    """The exact value of a JSON number; a ValueError when it is absurdly large or small."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        # The exponent has more than 18 digits.
        raise ValueError from None
    if not number.is_zero() and abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError
    return number


def _require_amount(amount: Decimal) -> Decimal:
    """The amount; a ValueError when adding or writing it would round."""
    if amount.is_zero():
        return Decimal("0.00")
    if not amount.is_finite():
        raise ValueError
    decimals = -cast("int", amount.as_tuple().exponent)
    if amount.adjusted() >= _MOST_DIGITS or decimals > _MOST_DECIMALS:
        raise ValueError
    return amount


class _Statement(BaseModel):
    """Control totals as JSON has them, in the source's answer and in a file's footer."""

    model_config = ConfigDict(extra="ignore")

    rows: int = Field(ge=0, le=_MOST_ROWS)
    amount_by_type: dict[str, Annotated[Decimal, AfterValidator(_require_amount)]]
    ids_digest: str = Field(pattern=r"^[0-9a-f]{16}$")


@dataclass(frozen=True)
class ControlTotals:
    """Rows, sums of amounts by the contract's group, and a digest of the ids.

    The three are additive: the totals of two disjoint sets of rows add up to the totals of their
    union, and the order of rows does not matter. Sums include plain decimals of at most as many
    decimals as the contract's only. A row with another amount adds to the count and the digest.

    Attributes:
        rows: how many.
        amount_by_type: sums by group, which is the type of the platform's own contract; a group
            without rows is absent, and so are all of a contract without amounts. Amounts of
            different groups are never added up, but card numbers in their names are asterisks.
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
        """The totals of the rows that are not in `other`, a subset."""
        negated = ControlTotals(
            -other.rows,
            {kind: total.copy_negate() for kind, total in other.amount_by_type.items()},
            -other.ids_digest,
        )
        return self + negated

    @classmethod
    def of(
        cls,
        rows: pa.RecordBatch | pl.DataFrame,
        hashes: NDArray[np.uint64] | None = None,
        contract: Contract = TRANSACTIONS,
    ) -> ControlTotals:
        """The totals of rows, as sent (text) or typed.

        Args:
            rows: the `total_columns` of the contract, amounts as text or numbers.
            hashes: the `id_hashes` of the rows, if they are known already.
            contract: of the rows.
        """
        if hashes is None:
            hashes = id_hashes(rows[contract.id])
        return cls(
            rows=len(hashes),
            amount_by_type=_sums(rows, contract),
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
            members: the `object_pairs_hook` of `json.loads`; it may raise a ValueError.

        Raises:
            ValueError: the text is no such statement.
        """
        try:
            # A float would round the amounts.
            sent = json.loads(text, parse_float=_decimal, object_pairs_hook=members)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        statement = _Statement.model_validate(sent)
        for kind in statement.amount_by_type:
            # Refuses a lone surrogate: a UnicodeEncodeError is a ValueError.
            kind.encode()
        named = _named(statement.amount_by_type.items())
        amounts = {kind: _plain(total) for kind, total in named.items()}
        return cls(statement.rows, amounts, int(statement.ids_digest, 16))

    def to_json(self) -> str:
        """The statement as JSON; equal totals give equal text."""
        return _Statement(
            rows=self.rows,
            amount_by_type={
                kind: _plain(self.amount_by_type[kind]) for kind in sorted(self.amount_by_type)
            },
            ids_digest=f"{self.ids_digest:016x}",
        ).model_dump_json()

    def to_display(self) -> dict[str, Any]:
        """The statement as JSON values, in a form that no scanner takes for a card number."""
        return {**json.loads(self.to_json()), "ids_digest": self.digest}

    @classmethod
    def of_display(cls, values: Any) -> ControlTotals:
        """The inverse of `to_display`.

        Raises:
            ValueError: the values are no such statement. A KeyError, a TypeError or an
                AttributeError tells of the same.
        """
        digest = values["ids_digest"].replace("-", "")
        return cls.parse(json.dumps({**values, "ids_digest": digest}))

    @property
    def digest(self) -> str:
        """The digest of ids for display, in two halves that no scanner takes for a card number."""
        return f"{self.ids_digest >> 32:08x}-{self.ids_digest & 0xFFFFFFFF:08x}"

    def differences(self, other: ControlTotals) -> list[str]:
        """A phrase for each difference, as `rows: 3 against 4`; empty when the totals are equal."""
        found: list[str] = []
        if self.rows != other.rows:
            found.append(f"rows: {self.rows:,} against {other.rows:,}")
        amounts: list[str] = []
        for kind in sorted({*self.amount_by_type, *other.amount_by_type}):
            ours, theirs = (totals.amount_by_type.get(kind, Decimal(0)) for totals in (self, other))
            if ours != theirs:
                of = kind if _CODE.fullmatch(kind) else shown(kind) if kind else "no group"
                amounts.append(f"amount of {of}: {ours:,} against {theirs:,}")
        found += amounts[:_NAMED]
        if len(amounts) > _NAMED:
            found.append(f"amounts of {len(amounts) - _NAMED:,} more groups")
        if self.ids_digest != other.ids_digest:
            found.append(f"digest of ids: {self.digest} against {other.digest}")
        return found


def _plain(amount: Decimal) -> Decimal:
    """The same amount with two decimals, or with more if it has more."""
    return _EXACT.quantize(amount, _CENT) if amount == _EXACT.quantize(amount, _CENT) else amount


def _sums(rows: pa.RecordBatch | pl.DataFrame, contract: Contract) -> dict[str, Decimal]:
    """The sums of amounts by group; null counts as the empty text."""
    if contract.amount is None:
        return {}
    amounts = _amounts(rows[contract.amount], contract)
    if contract.group is None:
        return {"": cast("Decimal", amounts.sum())}
    sums = (
        pl.LazyFrame({"group": rows[contract.group], "amount": amounts})
        .group_by("group")
        .agg(pl.col("amount").sum())
        .select(pl.col("group").cast(pl.String).fill_null(""), "amount")
        .sort("group")
        .collect()
    )
    return _named(sums.iter_rows())


def _named(sums: Iterable[tuple[str, Decimal]]) -> dict[str, Decimal]:
    """Sums by group; of a group that shows a card number, its characters are hidden."""
    found: dict[str, Decimal] = {}
    for group, total in sums:
        named = group if len(group) < LENGTHS[0] else _without_cards(group)
        found[named] = _EXACT.add(found[named], total) if named in found else total
    return found


def _without_cards(text: str) -> str:
    """A text whose card numbers are asterisks: totals are in footers of published files."""
    if not shows_card_number(pl.Series([text]), whole=False)[0]:
        return text
    hidden = {at for span in card_number_spans(text) for at in range(*span)}
    return "".join("*" if at in hidden else each for at, each in enumerate(text))


def _amounts(column: pl.Series | pa.Array[Any], contract: Contract) -> pl.Series:
    """Amounts as decimals, null where the text is no plain decimal; n values."""
    if isinstance(column, pa.DictionaryArray):
        values, indices = values_and_indices(column)
        return _amounts(values, contract).gather(indices)
    amounts = pl.Series(column)
    if amounts.dtype == pl.String:
        plain = amounts.str.contains(contract.amount_form)
        amounts = pl.select(pl.when(plain).then(amounts)).to_series()
    return amounts.cast(pl.Decimal(38, contract.decimals), strict=False)
