"""Columns for contracts of your own: dataframely's, strict about the text that is sent.

Each helper takes the column's description, and by name `path` (the field that has it, `a.b.c` for
one within others; the column's name without it), `role` (see `Contract`) and `nullable`. The bounds
and patterns are dataframely's.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import dataframely as dy
import polars as pl

from txn_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from txn_platform.contract.model import Role

# The last second of the year 9999, behind which readers have no times.
_LAST_SECOND: Final = 253_402_300_799


def text(
    description: str,
    *,
    path: str | None = None,
    role: Role | None = None,
    nullable: bool = False,
    regex: str | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    identifier: bool = False,
) -> dy.String:
    """Text, as sent; without a rule any text.

    Text that holds a card number breaks the contract. An `identifier`, and the id of a row, breaks
    it only if it is a card number as a whole, because numbers look like card numbers by chance.
    """
    search = "whole" if identifier else None
    return dy.String(
        nullable=nullable,
        regex=regex,
        min_length=min_length,
        max_length=max_length,
        description=description,
        metadata=_metadata(path, role, repeats=True, card_numbers=search),
    )


def code(
    description: str,
    of: Iterable[str],
    *,
    path: str | None = None,
    role: Role | None = None,
    nullable: bool = False,
) -> dy.String:
    """One of a list of codes, in the same capitals.

    Raises:
        UserError: it is no list of texts.
    """
    codes = tuple(of)
    # No type checker has looked at what a user writes.
    texts: tuple[Any, ...] = codes
    if isinstance(of, str) or not codes or not all(type(each) is str for each in texts):
        raise UserError(
            f"the codes of {description!r} must be a list of texts, also for numbers, as in"
            ' code("How it ended", ["1", "2"])'
        )
    return dy.String(
        nullable=nullable,
        check={"unknown": partial(_is_in, codes=codes)},
        description=description,
        metadata=_metadata(path, role, repeats=True, card_numbers="none", codes=codes),
    )


def _is_in(value: pl.Expr, codes: tuple[str, ...]) -> pl.Expr:
    return value.is_in(codes)


def whole(
    description: str,
    *,
    path: str | None = None,
    role: Role | None = None,
    nullable: bool = False,
    min: int | None = None,  # noqa: A002 - dataframely's name
    max: int | None = None,  # noqa: A002 - dataframely's name
) -> dy.Int64:
    """A whole number, such as an amount in the currency's smallest unit: `1250`, not `1250.0`."""
    return dy.Int64(
        nullable=nullable,
        min=min,
        max=max,
        description=description,
        metadata=_metadata(path, role, repeats=True),
    )


def decimal(
    description: str,
    *,
    path: str | None = None,
    role: Role | None = None,
    nullable: bool = False,
    precision: int = 18,
    scale: int = 2,
    min: Decimal | None = None,  # noqa: A002 - dataframely's name
    min_exclusive: Decimal | None = None,
    max: Decimal | None = None,  # noqa: A002 - dataframely's name
) -> dy.Decimal:
    """A decimal number of at most `scale` decimals, exact; no exponent, and nothing is rounded.

    Raises:
        UserError: a bound is no whole number or `Decimal`.
    """
    bounds: list[Any] = [min, min_exclusive, max]
    if not all(isinstance(bound, Decimal | int | None) for bound in bounds):
        raise UserError(
            f'a bound of {description!r} is not exact: write it as Decimal("0.5"), or as a whole'
            " number"
        )
    return dy.Decimal(
        precision,
        scale,
        nullable=nullable,
        min=min,
        min_exclusive=min_exclusive,
        max=max,
        description=description,
        metadata=_metadata(path, role, repeats=True),
    )


def flag(
    description: str,
    *,
    path: str | None = None,
    role: Role | None = None,
    nullable: bool = False,
    true: str = "true",
    false: str = "false",
) -> dy.Bool:
    """A truth value, sent as one of two texts; the defaults are JSON's.

    Raises:
        UserError: they are no two texts.
    """
    texts: tuple[Any, Any] = (true, false)
    if true == false or not all(isinstance(each, str) for each in texts):
        raise UserError(
            f"true and false of {description!r} must be two different texts, also for numbers, as"
            ' in flag("Whether it was paid", true="1", false="0")'
        )
    return dy.Bool(
        nullable=nullable,
        description=description,
        metadata=_metadata(
            path,
            role,
            repeats=True,
            text=f"^({re.escape(true)}|{re.escape(false)})$",
            parse=partial(_is_equal, other=true),
        ),
    )


def _is_equal(texts: pl.Series, other: str) -> pl.Series:
    return texts == other


def rfc3339(
    description: str, *, path: str | None = None, role: Role | None = None, nullable: bool = False
) -> dy.Datetime:
    """A moment as RFC 3339 has it, with a zone: `2026-11-01T00:00:00Z`, at most six decimals."""
    return _moment(description, nullable, _metadata(path, role))


def unix_seconds(
    description: str, *, path: str | None = None, role: Role | None = None, nullable: bool = False
) -> dy.Datetime:
    """A moment as whole seconds since 1970."""
    return _moment(
        description,
        nullable,
        _metadata(path, role, text=r"^(0|[1-9][0-9]{0,11})$", parse=partial(_since, unit="s")),
    )


def unix_millis(
    description: str, *, path: str | None = None, role: Role | None = None, nullable: bool = False
) -> dy.Datetime:
    """A moment as whole milliseconds since 1970."""
    return _moment(
        description,
        nullable,
        _metadata(path, role, text=r"^(0|[1-9][0-9]{0,14})$", parse=partial(_since, unit="ms")),
    )


def _moment(description: str, nullable: bool, metadata: dict[str, Any]) -> dy.Datetime:
    return dy.Datetime(
        time_zone="UTC", nullable=nullable, description=description, metadata=metadata
    )


def _since(counts: pl.Series, unit: Literal["s", "ms"]) -> pl.Series:
    """Moments from counts since 1970, as text; null behind the year 9999."""
    per_second = {"s": 1, "ms": 1_000}[unit]
    whole_counts = counts.cast(pl.Int64, strict=False)
    in_time = whole_counts <= (_LAST_SECOND + 1) * per_second - 1
    micros = whole_counts.set(~in_time, None) * (1_000_000 // per_second)
    return micros.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _metadata(path: str | None, role: Role | None, **options: Any) -> dict[str, Any]:
    given = {"path": path, "role": role, **options}
    return {name: value for name, value in given.items() if value is not None}
