"""Published transactions as rows for analysis, from the lake that the settings name.

`txn_platform.read_transactions` is this module's function. It needs no Dagster. Assets of Dagster
get their inputs from `defs/io_managers`.
"""

from __future__ import annotations

import operator
import warnings
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import reduce
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Literal, cast, overload

import polars as pl
import pyarrow as pa

from txn_platform.audit import audited
from txn_platform.contract.card_forms import TOKEN_COLUMN
from txn_platform.contract.schema import PUBLISHED, TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.lake.base import explained_reads
from txn_platform.lake.card_tokens import several_keys
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.local.in_use import local_stack
from txn_platform.settings import load_settings
from txn_platform.windows import PARTITION_KEY_FORMAT, WINDOW_LENGTH, Window, full_hour, iso

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from txn_platform.contract.model import Contract
    from txn_platform.feeds import Feed
    from txn_platform.lake.base import Lake

type Condition = tuple[str, str, Any]
type Filters = pl.Expr | Sequence[Condition] | Sequence[list[Condition]]

# Rows of a batch of the Arrow reader.
_BATCH_ROWS: Final = 1 << 16
# Missing windows that a message names.
_NAMED: Final = 3
# Windows of a longer span whose footers are looked at for the keys of their card tokens.
_LOOKED_AT: Final = 64
_COMPARISONS: Final[dict[str, Callable[[pl.Expr, Any], pl.Expr]]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@overload
def read_transactions(
    start: datetime | date | str,
    end: datetime | date | str,
    *,
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
    allow_missing: bool = False,
    feed: Feed | None = None,
    as_arrow: Literal[False] = False,
) -> pl.LazyFrame: ...


@overload
def read_transactions(
    start: datetime | date | str,
    end: datetime | date | str,
    *,
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
    allow_missing: bool = False,
    feed: Feed | None = None,
    as_arrow: Literal[True],
) -> pa.RecordBatchReader: ...


def read_transactions(
    start: datetime | date | str,
    end: datetime | date | str,
    *,
    columns: Sequence[str] | None = None,
    filters: Filters | None = None,
    allow_missing: bool = False,
    feed: Feed | None = None,
    as_arrow: bool = False,
) -> pl.LazyFrame | pa.RecordBatchReader:
    """The published transactions of a span of time, ordered by time and id.

    Nothing but footers is read before the rows are asked for. Then only the needed columns and row
    groups are read.

    Args:
        start: the first moment: a datetime with a zone, a date (midnight, UTC), or one of these as
            text (`2026-11-01`, `2026-11-01T14:30:00Z`); a partition's key is one as well.
        end: the moment after the last one, likewise.
        columns: names of the columns, in the order of the result; None for all.
        filters: which rows: a polars expression, or conditions as pandas and pyarrow take them: a
            list of `(column, comparison, value)`, all of which must hold, or a list of such lists,
            one of which must hold. Comparisons are `=`, `==`, `!=`, `<`, `<=`, `>`, `>=`, `in` and
            `not in`.
        allow_missing: read the windows that are published, although others of the span are not.
        feed: whose rows to read; None for the generator's.
        as_arrow: return a reader of record batches, which need little memory, instead of a frame.

    Returns:
        A polars LazyFrame, or a pyarrow RecordBatchReader. The columns have the types of
        `docs/contract.md`; amounts are decimals in the currency's unit, times are in UTC.

    Raises:
        UserError: an argument is not allowed, a window is not published, or the store can't be
            reached.

    Warns:
        UserWarning: the windows have card tokens under several card keys, which do not join. Only
            with `card_token` among the columns; of more than 64 windows, 64 are looked at.

    Example:
        >>> from txn_platform import read_transactions
        >>> frame = read_transactions(
        ...     "2026-11-01", "2026-11-08", columns=["amount"], filters=[("is_fraud", "=", True)]
        ... )
        >>> amounts = frame.collect()
    """
    first, after = _moment(start, "start"), _moment(end, "end")
    if first >= after:
        raise UserError(f"start ({iso(first)}) is not before end ({iso(after)}): swap them")
    contract, asset = TRANSACTIONS, PUBLISHED
    if feed is not None:
        contract, asset = feed.contract, feed.asset(PUBLISHED)
    chosen = _columns(columns, contract)
    wanted = pl.lit(value=True) if filters is None else _expression(filters, contract)
    _require_fitting(wanted, contract)
    settings = load_settings()
    lake = open_lake(settings)
    windows = _windows(first, after)
    keys, missing = _published(lake, asset, windows)
    if missing and not allow_missing:
        beside = local_stack(settings)
        raise _lacking(lake.uri(asset), missing, len(windows), beside, feed and feed.prefix)
    # Columns without tokens need no look at the footers.
    if TOKEN_COLUMN in chosen and (told := several_keys(lake, _some(keys))):
        warnings.warn(told, stacklevel=2)
    seen = {*chosen, *wanted.meta.root_names()}
    if keys and settings.card_policy == "clear" and contract.card in seen:
        # One line: a span can have thousands of windows.
        with audited(
            "read",
            asset=asset,
            object=lake.uri(asset),
            start=iso(first),
            end=iso(after),
            windows=len(keys),
        ):
            pass
    frame = lake.scan(keys) if keys else _empty(contract).lazy()
    if (first, after) != (windows[0].start, windows[-1].end):
        wanted &= (pl.col(contract.time) >= first) & (pl.col(contract.time) < after)
    frame = frame.filter(wanted).select(chosen)
    schema = pa.schema([contract.published_schema.field(name) for name in chosen])
    return _reader(frame, schema, lake.uri(asset)) if as_arrow else frame


def _moment(value: object, name: str) -> datetime:
    """A moment in UTC; see `read_transactions`.

    Args:
        value: of an argument or a filter.
        name: of it, for the message.
    """
    given = value
    if isinstance(value, str):
        try:
            value = _parsed(value)
        except ValueError:
            value = None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UserError(f"{name} ({given}) has no zone: add one, as in 2026-11-01T00:00:00Z")
        return value.astimezone(UTC)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise UserError(
        f"{name} ({given!r}) is not a moment: write a datetime with a zone, or text such as"
        " 2026-11-01 or 2026-11-01T00:00:00Z"
    )


def _parsed(text: str) -> datetime | date:
    try:
        return datetime.strptime(text, PARTITION_KEY_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        pass
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)


def _columns(columns: Sequence[str] | None, contract: Contract) -> list[str]:
    if columns is None:
        return list(contract.published_columns)
    chosen = [columns] if isinstance(columns, str) else list(columns)
    for name in chosen:
        _require_column(name, "columns", contract)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError("columns must name at least one column, and each one once")
    return chosen


def _require_column(name: object, argument: str, contract: Contract) -> None:
    if name not in contract.published_columns:
        raise UserError(
            f"{argument} names {name!r}, which is no published column: choose from"
            f" {', '.join(contract.published_columns)}"
        )


def _expression(filters: Filters, contract: Contract) -> pl.Expr:
    if isinstance(filters, pl.Expr):
        return filters
    if isinstance(filters, str) or not filters:
        raise UserError(
            "filters must be a polars expression or conditions such as"
            ' [("amount", ">", 100)]: leave it out to read all rows'
        )
    if all(isinstance(each, list) for each in filters):
        alternatives = cast("Sequence[list[Condition]]", filters)
        return reduce(operator.or_, (_all_of(each, contract) for each in alternatives))
    return _all_of(cast("Sequence[Condition]", filters), contract)


def _all_of(conditions: Sequence[Condition], contract: Contract) -> pl.Expr:
    found = (_condition(each, contract) for each in conditions)
    return reduce(operator.and_, found, pl.lit(value=True))


def _condition(condition: Condition, contract: Contract) -> pl.Expr:
    """One condition; the value is converted to the column's type, without a change."""
    if not isinstance(condition, tuple) or len(condition) != 3:  # pyright: ignore[reportUnnecessaryIsInstance] - a user's
        raise UserError(
            f"filters has {condition!r}: write each condition as (column, comparison, value)"
        )
    name, comparison, value = condition
    _require_column(name, "filters", contract)
    kind = contract.published_schema.field(name).type
    column = pl.col(name)
    if comparison in {"in", "not in"}:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise UserError(f"filters compares {name} by {comparison!r}: give it a list of values")
        equal = (column == _value(name, kind, each) for each in value)
        found = reduce(operator.or_, equal, pl.lit(value=False))
        return ~found if comparison == "not in" else found
    if comparison not in _COMPARISONS:
        raise UserError(
            f"filters compares {name} by {comparison!r}: choose from"
            f" {', '.join([*_COMPARISONS, 'in', 'not in'])}"
        )
    return _COMPARISONS[comparison](column, _value(name, kind, value))


def _value(name: str, kind: pa.DataType, value: object) -> object:
    """A value of a condition in the type of its column.

    Raises:
        UserError: it has another type.
    """
    if pa.types.is_timestamp(kind):
        return _moment(value, f"the value for {name} in filters")
    # Numbers of numpy are numbers too.
    number = not isinstance(value, bool) and isinstance(value, (Real, Decimal))
    if pa.types.is_decimal(kind) and (number or isinstance(value, str)):
        try:
            # A float's own digits: 12.1 is meant by 12.1.
            return Decimal(str(value))
        except InvalidOperation:
            pass
    elif pa.types.is_floating(kind) and number:
        return float(cast("Real", value))
    elif (
        (pa.types.is_boolean(kind) and isinstance(value, bool))
        or (pa.types.is_string(kind) and isinstance(value, str))
        or (pa.types.is_integer(kind) and isinstance(value, int) and number)
        or (pa.types.is_date(kind) and type(value) is date)
    ):
        return value
    raise UserError(f"filters compares {name}, a {kind}, with {value!r}: give a value of its type")


def _require_fitting(wanted: pl.Expr, contract: Contract) -> None:
    """Check that an expression can be evaluated on published rows, and is true or false."""
    try:
        _empty(contract).filter(wanted)
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"filters does not fit the published columns: {reason}") from None


def _empty(contract: Contract) -> pl.DataFrame:
    return cast("pl.DataFrame", pl.from_arrow(contract.published_schema.empty_table()))


def _windows(first: datetime, after: datetime) -> list[Window]:
    """The windows that a span of time touches, oldest first."""
    start = full_hour(first)
    count = -((start - after) // WINDOW_LENGTH)
    return [Window(start + WINDOW_LENGTH * number) for number in range(count)]


def _published(lake: Lake, asset: str, windows: Sequence[Window]) -> tuple[list[str], list[str]]:
    """The keys of the published objects of windows, and the partition keys of the other windows."""
    keys = {object_key(asset, window): window for window in windows}
    absent = set(lake.absent(list(keys)))
    missing = [window.partition_key for key, window in keys.items() if key in absent]
    return [key for key in keys if key not in absent], missing


def _some(keys: Sequence[str]) -> Sequence[str]:
    """The first key, the last, and others at equal distances: so many that it takes no time."""
    steps = _LOOKED_AT - 1
    if len(keys) <= _LOOKED_AT:
        return keys
    return [keys[step * (len(keys) - 1) // steps] for step in range(_LOOKED_AT)]


def _lacking(
    where: str, missing: Sequence[str], count: int, beside: str | None, feed: str | None
) -> UserError:
    """The error for windows that are not published.

    Args:
        where: the place in the lake that was looked at.
        missing: partition keys of the windows, at least one.
        count: of all windows of the span.
        beside: a note on a lake that was not looked at.
        feed: that the windows are of; None for the generator.
    """
    named = ", ".join(missing[:_NAMED])
    if len(missing) > _NAMED:
        named += f" and {len(missing) - _NAMED:,} more, the last {missing[-1]}"
    note = f". Note: {beside}" if beside else ""
    of_feed = f" --feed {feed}" if feed else ""
    return UserError(
        f"{where} lacks {len(missing):,} of {count:,} windows: {named}. Run them"
        f" (txn run --from {missing[0]} --to {missing[-1]}{of_feed}), or read those that are"
        f" published with allow_missing=True{note}"
    )


def _reader(frame: pl.LazyFrame, schema: pa.Schema, name: str) -> pa.RecordBatchReader:
    """The rows of a frame in batches with the types of the contract."""

    def batches() -> Iterator[pa.RecordBatch]:
        with explained_reads(name):
            for part in frame.collect_batches(chunk_size=_BATCH_ROWS, lazy=True):
                yield from part.to_arrow().cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
