"""A contract of any columns: a dataframely schema whose columns have roles.

`schema` has the contract of the platform's own source, `columns` makes columns for others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import dataframely as dy
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import encoded_schema
from txn_platform.contract.card_forms import CARD_MASKS, CARD_TOKEN, DEFAULT_MASK, TOKEN_COLUMN
from txn_platform.contract.column_faults import faults_of_options, faults_of_rules
from txn_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

type Role = Literal["id", "time", "amount", "group", "currency", "fraud", "card"]
type CardSearch = Literal["within", "whole", "none"]
"""How a text is searched for card numbers: it may hold none, or it may be none as a whole."""

# The field of `extra_fields` that holds the bytes of a row that could not be read.
UNREADABLE: Final = "unreadable"
# The field of `extra_fields` that holds a list of one text: a row, as sent, with two fields of one
# name.
DUPLICATE_FIELD: Final = "duplicate_field"
# Half of a surrogate pair is no character. Its number stands behind this in a text.
HALF_A_CHARACTER: Final = "\x1a\\u"

EXTRA_FIELDS: Final = "extra_fields"
_POSITION: Final = pa.field(
    "position",
    pa.int64(),
    nullable=False,
    metadata={"description": "The row's place in the source's answer, from 0"},
)
_EXTRA: Final = pa.field(
    EXTRA_FIELDS,
    pa.string(),
    metadata={"description": "Fields that the contract does not know, as a JSON object of text"},
)
_OF_QUARANTINE: Final = (
    pa.field(
        "reasons",
        pa.list_(pa.string()),
        nullable=False,
        metadata={"description": "Every rule that the row breaks, as column.problem"},
    ),
    pa.field(
        "window_start",
        pa.timestamp("us", tz="UTC"),
        nullable=False,
        metadata={"description": "The start of the window that the row was sent for"},
    ),
    pa.field(
        "contract_version",
        pa.string(),
        nullable=False,
        metadata={"description": "The contract that the row was held against"},
    ),
)
# Columns that tables of the lake have beside those of a contract; and words of reasons and rules.
_RESERVED: Final = frozenset(
    {_POSITION.name, EXTRA_FIELDS, TOKEN_COLUMN, "event_date", "event_hour", "repeat", "row"}
    | {field.name for field in _OF_QUARANTINE}
)
# Of a contract, as footers, paths and descriptors take it.
_LABEL: Final = re.compile(r".*[A-Za-z0-9].*")
# Hive, Delta and SQL take such names without quotes.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_TEXT: Final = (pl.String, pl.Enum, pl.Categorical)
_INTEGERS: Final[dict[pl.DataType, pa.DataType]] = {
    pl.Int8(): pa.int8(),
    pl.Int16(): pa.int16(),
    pl.Int32(): pa.int32(),
    pl.Int64(): pa.int64(),
}
_MOMENT: Final = pl.Datetime("us", "UTC")
_STORED: Final[dict[pl.DataType, pa.DataType]] = {
    pl.Boolean(): pa.bool_(),
    **_INTEGERS,
    pl.Float32(): pa.float32(),
    pl.Float64(): pa.float64(),
    pl.Date(): pa.date32(),
    _MOMENT: pa.timestamp("us", tz="UTC"),
}
# The form of a value as text, validated before it is parsed. A cast would round "1.005" and guess
# the zone of a time, and the changed value would look right.
_FORMS: Final[dict[pl.DataType, str]] = {
    pl.Boolean(): r"^(true|false)$",
    **dict.fromkeys(_INTEGERS, r"^-?(0|[1-9][0-9]{0,18})$"),
    **dict.fromkeys(
        # The forms in which programs print a double: up to 17 digits, or an exponent.
        [pl.Float32(), pl.Float64()],
        r"^-?(0|[1-9][0-9]{0,19})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$",
    ),
    pl.Date(): r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    _MOMENT: (
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
        r"(Z|[+-][0-9]{2}:[0-9]{2})$"
    ),
}
_MOST_DIGITS: Final = 38
# Ten digits are left for the number of rows.
_MOST_DIGITS_OF_AMOUNTS: Final = 28
# The types that a column of each role may have, in words.
_KINDS: Final[dict[Role, str]] = {
    "id": "dy.String",
    "time": 'dy.Datetime(time_zone="UTC")',
    "amount": "dy.Decimal or a signed integer",
    "group": "dy.String or dy.Enum",
    "currency": "dy.String or dy.Enum",
    "fraud": "dy.Bool",
    "card": "dy.String",
}
ROLES: Final = tuple(_KINDS)
_MANDATORY: Final = ("id", "time")
# Their columns are dictionaries, because work on them is done once for each value.
_REPEATING_ROLES: Final = frozenset({"group", "currency", "card"})


@dataclass(frozen=True)
class CheckText:
    """A check of a column in words.

    Attributes:
        broken: a phrase on a value that breaks it, as the quarantine explains it.
        rule: a phrase on a value that obeys it, as catalogues show it.
    """

    broken: str
    rule: str


@dataclass(frozen=True, eq=False)
class Contract:
    """The columns, types, rules and roles of one kind of rows.

    A column of `schema` says by its `metadata` what it is for:

    - `role`: `id` (text, unique in a window), `time` (within the window), `amount`, `group` (the
      text by which amounts are summed), `currency` (the text whose ISO 4217 code says the decimals
      of an amount, and by which sums are shown; the group is taken without it), `fraud` (a label),
      `card` (a card number, published as mask and token).
    - `path`: the field that has it, `a.b.c` for one within others; the column's name without it.
    - `repeats`: True if its values repeat within a window.
    - `card_numbers`: how its text is searched for card numbers. `within` (the default): a text that
      holds one breaks the contract. `whole` (the default of an id): only one that is one. `none`:
      the rules allow no text that could hold one.
    - `shown`: True if people tell rows apart by it.
    - `personal`: how it relates to a person, for catalogues.
    - `codes`: its code list, for descriptors.
    - `text`: a pattern that its text must match, for a type that is not text.
    - `parse`: a function from n texts of this form to n values, null for a text that is none.
    - `checks`: `CheckText` by the name of a check.
    - `note`: a paragraph for the contract's page, Markdown.
    - `only_where`: by the name of a check of several columns, an expression of one column. Where it
      is false or null, every row obeys the check, which is not evaluated there.
    - `text_problems`: by the name of a check, an expression of texts (`sent.` and the column's
      name). A text without the form for which it holds breaks this check instead of the form.

    Attributes:
        name: of one row, as `transaction`.
        version: to be raised with a change of the rules.
        schema: of the rows as they are sent, once their text is parsed.
        published: of the rows after protection, for type checkers; it is derived without it.

    Raises:
        UserError: the schema cannot be landed; the message names the column and the remedy.
    """

    name: str
    version: str
    schema: type[dy.Schema]
    published: type[dy.Schema] | None = None

    def __post_init__(self) -> None:
        self._require_none(self._faults())

    def require_rules_of_rows(self) -> None:
        """Try the rules with a few values, as rows would later.

        Raises:
            UserError: a rule cannot be applied to each row; the message names it and the remedy.
        """
        self._require_none(faults_of_rules(self.columns, self.forms))

    def _require_none(self, faults: Iterator[str]) -> None:
        for fault in faults:
            raise UserError(f"the contract {self.name!r} cannot be used: {fault}")

    def _faults(self) -> Iterator[str]:
        # No type checker has looked at what a user writes.
        given: list[tuple[str, Any]] = [("name", self.name), ("version", self.version)]
        for what, value in given:
            if not (isinstance(value, str) and _LABEL.fullmatch(value) and value.isprintable()):
                yield (
                    f"its {what} must be text on one line with a letter or digit from ASCII,"
                    ' as in Contract("charge", "1", ...)'
                )
        yield from self._faults_of_schema("schema", self.schema)
        if self.published is not None:
            yield from self._faults_of_schema("published", self.published)
        rules = getattr(self.schema, "__dataframely_rules__", {})
        if rules:
            yield (
                f"{self.schema.__name__}.{min(rules)} is a rule of the schema (@dy.rule), which is"
                " not applied to rows that stream: write it as a check= of a column, whose"
                " expression may name other columns"
            )
        for name, column in self.columns.items():
            yield from faults_of_options(name, column)
        yield from self._faults_of_names()
        for name, column in self.columns.items():
            yield from self._faults_of_column(name, column)
        for role in ROLES:
            yield from self._faults_of_role(role)
        if self.published is not None:
            yield from self._faults_of_published(self.published.columns())

    def _faults_of_schema(self, what: str, schema: Any) -> Iterator[str]:
        if not (isinstance(schema, type) and issubclass(schema, dy.Schema)):
            yield f"its {what} must be a class, as in class Charge(dy.Schema)"
        elif isinstance(getattr(schema, "columns"), dy.Column):  # noqa: B009 - no method here
            yield (
                "a column of its schema hides the method columns of dataframely: give it another"
                ' name in the class, with alias="columns"'
            )

    def _faults_of_names(self) -> Iterator[str]:
        for name in self.columns:
            if not _NAME.fullmatch(name):
                yield (
                    f"the column {name!r} is not a name of letters, digits and underscores: rename"
                    f" it, and say where it is sent with path={name!r}"
                )
            if name.lower() in _RESERVED:
                yield (
                    f"the column {name!r} has a name that the lake uses itself: rename it, and say"
                    f" where it is sent with path={name!r}"
                )
        folded = [name.lower() for name in self.columns]
        for name in self.columns:
            if folded.count(name.lower()) > 1:
                yield f"the column {name!r} has the name of another one but for capitals: rename it"
        fields = [self._field_of(name) for name in self.columns]
        for name, field in zip(self.columns, fields, strict=True):
            if "" in field.split("."):
                yield f"the column {name!r} has the path {field!r}: write names joined by dots"
            if fields.count(field) > 1:
                yield f"the column {name!r} has the field {field!r} of another one: remove one"

    def _faults_of_column(self, name: str, column: dy.Column) -> Iterator[str]:
        kind = type(column).__name__
        if isinstance(column.dtype, pl.Decimal) and not _is_decimal(column.dtype):
            yield (
                f"the column {name!r} is a dy.Decimal with a precision or scale that does not"
                f" exist: give it a precision of 1 to {_MOST_DIGITS}, and a scale up to it"
            )
        if _stored(column.dtype) is None:
            yield f"the column {name!r} is a dy.{kind}, {_remedy(column.dtype)}"
        if column.primary_key and self.option(name, "role") != "id":
            yield (
                f"the column {name!r} has primary_key=True, which only the column with the role id"
                " may have: a row is known by one id"
            )
        if column.unique and self.option(name, "role") != "id":
            yield (
                f"the column {name!r} has unique=True, which only the column with the role id may"
                " have: rows are compared within a window by their id"
            )
        if self.option(name, "role") not in (None, *ROLES):
            yield (
                f"the column {name!r} has the role {self.option(name, 'role')!r}: choose from"
                f" {', '.join(ROLES)}"
            )
        if self.option(name, "role") == "amount" and self._has_own_form(name):
            yield (
                f"the column {name!r} is the amount and has a form of its own (text, parse), but"
                " amounts are summed as sent: leave the form out"
            )
        if (
            self.option(name, "role") == "amount"
            and isinstance(column.dtype, pl.Decimal)
            and (column.dtype.precision or _MOST_DIGITS) > _MOST_DIGITS_OF_AMOUNTS
        ):
            yield (
                f"the column {name!r} is the amount, and sums of its values may have more than"
                f" {_MOST_DIGITS} digits: give it a precision of at most {_MOST_DIGITS_OF_AMOUNTS}"
            )

    def _faults_of_role(self, role: Role) -> Iterator[str]:
        named = [name for name in self.columns if self.option(name, "role") == role]
        if not named and role in _MANDATORY:
            yield f"no column has the role {role}: mark one with role={role!r}"
        if len(named) > 1:
            yield f"several columns have the role {role} ({', '.join(named)}): leave it to one"
        for name in named:
            column = self.columns[name]
            if not _fits(role, column.dtype):
                yield (
                    f"the column {name!r} has the role {role} and is a"
                    f" dy.{type(column).__name__}: it must be {_KINDS[role]}"
                )
            if column.nullable and role in _MANDATORY:
                yield f"the column {name!r} has the role {role} and is nullable: every row has one"

    def _faults_of_published(self, published: dict[str, dy.Column]) -> Iterator[str]:
        expected = {*self.columns, *([TOKEN_COLUMN] if self.card else [])}
        for name in sorted(expected ^ published.keys()):
            yield (
                f"published= {'lacks' if name in expected else 'has'} the column {name!r}: it has"
                f" the sent columns, and {TOKEN_COLUMN} if there is a card"
            )
        for name, column in published.items():
            sent = self.columns.get(name)
            if sent is None or name == self.card:
                wanted = pl.String(), column.nullable
            else:
                wanted = sent.dtype, sent.nullable
            if (column.dtype, column.nullable) != wanted:
                yield f"published= has the column {name!r} of another type: give it the sent one"

    @property
    def origin(self) -> str:
        """The file in which it is written, for people."""
        return f"{self.schema.__module__.replace('.', '/')}.py"

    @cached_property
    def columns(self) -> dict[str, dy.Column]:
        """The columns as sent, by name."""
        return self.schema.columns()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns as sent."""
        return tuple(self.columns)

    def option(self, name: str, key: str) -> Any:
        """A value of a column's metadata; None without it."""
        return (self.columns[name].metadata or {}).get(key)

    def _of_role(self, role: Role) -> str | None:
        return next((name for name in self.columns if self.option(name, "role") == role), None)

    @cached_property
    def id(self) -> str:
        """The column that is unique in a window."""
        return self._of_role("id") or ""

    @cached_property
    def time(self) -> str:
        """The column of the time that is within the window."""
        return self._of_role("time") or ""

    @cached_property
    def amount(self) -> str | None:
        """The column that is summed; None without amounts."""
        return self._of_role("amount")

    @cached_property
    def group(self) -> str | None:
        """The column by which control totals sum amounts; None for one sum."""
        return self._of_role("group")

    @cached_property
    def currency(self) -> str | None:
        """The column with the currency of an amount; None if the contract does not say."""
        return self._of_role("currency")

    @cached_property
    def fraud(self) -> str | None:
        """The column that labels a row as fraud; None without labels."""
        return self._of_role("fraud")

    @cached_property
    def card(self) -> str | None:
        """The column of the card number; None without card numbers."""
        return self._of_role("card")

    @cached_property
    def decimals(self) -> int:
        """The decimals of amounts."""
        return getattr(self.columns[self.amount].dtype, "scale", 0) if self.amount else 0

    @cached_property
    def amount_form(self) -> str:
        """The form of an amount that is summed as sent; leading zeros do not change its value."""
        dtype = self.columns[self.amount].dtype if self.amount else pl.Int64()
        digits = _digits(dtype) if isinstance(dtype, pl.Decimal) else len(str(2**63 - 1))
        return rf"^-?[0-9]{{1,{digits}}}{_decimals(self.decimals)}$"

    @cached_property
    def order(self) -> tuple[str, str]:
        """The columns by which published rows are ordered."""
        return self.time, self.id

    @cached_property
    def total_columns(self) -> list[str]:
        """The columns that control totals are counted from."""
        return [name for name in (self.id, self.group, self.amount) if name]

    @cached_property
    def figure_group(self) -> str | None:
        """The column by which figures sum amounts for people."""
        return self.currency or self.group

    @cached_property
    def figure_columns(self) -> list[str]:
        """The columns that figures are counted from."""
        columns = (self.time, self.amount, self.figure_group, self.fraud)
        return [name for name in columns if name]

    @cached_property
    def shown_columns(self) -> list[str]:
        """The columns by which people tell published rows apart."""
        wanted = {self.time, self.card, self.amount, self.figure_group}
        return [name for name in self.names if name in wanted or self.option(name, "shown")]

    @cached_property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return tuple(name for name, column in self.columns.items() if not column.nullable)

    def _field_of(self, name: str) -> str:
        return self.option(name, "path") or name

    @cached_property
    def fields(self) -> dict[str, str]:
        """For the name of each field that is a column, the column."""
        return {self._field_of(name): name for name in self.columns}

    @cached_property
    def nested(self) -> dict[str, tuple[str, ...]]:
        """The names on the way to a value within other fields, by column."""
        paths = {name: tuple(self._field_of(name).split(".")) for name in self.columns}
        return {name: path for name, path in paths.items() if len(path) > 1}

    def is_among(self, name: str, fields: Collection[str]) -> bool:
        """Whether a column can be in rows with these fields."""
        path = self._field_of(name).split(".")
        return any(".".join(path[:length]) in fields for length in range(1, len(path) + 1))

    @cached_property
    def forms(self) -> dict[str, str]:
        """The pattern of the text of each column that is parsed."""
        return {
            name: self.option(name, "text") or _form(column.dtype)
            for name, column in self.columns.items()
            if not isinstance(column.dtype, _TEXT)
        }

    def _has_own_form(self, name: str) -> bool:
        return self.option(name, "text") is not None or self.option(name, "parse") is not None

    @cached_property
    def codes(self) -> dict[str, tuple[str, ...]]:
        """The code lists that descriptors show, by column."""
        return {
            name: tuple(codes)
            for name, column in self.columns.items()
            if (codes := self.option(name, "codes") or _categories(column))
        }

    def card_search(self, name: str) -> CardSearch:
        """How a column, sent or published, is searched for card numbers."""
        if name not in self.columns or name == self.card or name in self.forms:
            return "none"
        if isinstance(self.columns[name].dtype, pl.Enum):
            return "none"
        return self.option(name, "card_numbers") or ("whole" if name == self.id else "within")

    @cached_property
    def dictionary_encoded(self) -> tuple[str, ...]:
        """Columns whose values repeat within a window (`arrow/dictionaries`)."""
        return tuple(
            each
            for name in self.columns
            if self._repeats(name)
            for each in ((name, TOKEN_COLUMN) if name == self.card else (name,))
        )

    def _repeats(self, name: str) -> bool:
        role = self.option(name, "role")
        if role in _MANDATORY:
            return False
        closed = isinstance(self.columns[name].dtype, (pl.Enum, pl.Categorical))
        return bool(self.option(name, "repeats")) or role in _REPEATING_ROLES or closed

    @cached_property
    def published_columns(self) -> dict[str, dy.Column]:
        """The columns as published, in their order; the token comes after its card."""
        columns = self._derived() if self.published is None else self.published.columns()
        names = (
            each
            for name in self.columns
            for each in ((name, TOKEN_COLUMN) if name == self.card else (name,))
        )
        return {name: columns[name] for name in names}

    def _derived(self) -> dict[str, dy.Column]:
        if self.card is None:
            return self.columns
        form, nullable = CARD_MASKS[DEFAULT_MASK], self.columns[self.card].nullable
        return self.columns | {
            self.card: dy.String(
                nullable=nullable, regex=form.pattern, description=form.description
            ),
            TOKEN_COLUMN: dy.String(
                nullable=nullable,
                regex=CARD_TOKEN,
                description="HMAC-SHA256 of the number under TXN_CARD_KEY, in base32",
            ),
        }

    @cached_property
    def conforming_schema(self) -> pa.Schema:
        """Of rows in memory that hold the contract: typed, the card number as sent."""
        fields = [_field(name, column) for name, column in self.columns.items()]
        return encoded_schema(pa.schema(fields), self.dictionary_encoded)

    @cached_property
    def published_schema(self) -> pa.Schema:
        """Of published files."""
        return pa.schema(
            [_field(name, column) for name, column in self.published_columns.items()],
            metadata={"contract": f"{self.name} v{self.version}"},
        )

    def with_card_metadata(self, schema: pa.Schema, metadata: Any) -> pa.Schema:
        """A schema with other metadata of its column of the card, if it has one."""
        if self.card is None:
            return schema
        at = schema.names.index(self.card)
        return schema.set(at, schema.field(at).with_metadata(metadata))

    @cached_property
    def raw_schema(self) -> pa.Schema:
        """Of files with rows as sent."""
        return pa.schema([_POSITION, *self._as_sent, _EXTRA])

    @cached_property
    def landed_schema(self) -> pa.Schema:
        """The same of rows in memory."""
        return encoded_schema(self.raw_schema, self.dictionary_encoded)

    @cached_property
    def answer_schema(self) -> pa.Schema:
        """The same of an answer of the source, whose rows have no positions yet."""
        return self.landed_schema.remove(0)

    @cached_property
    def quarantine_schema(self) -> pa.Schema:
        """Of files with rows that break the contract."""
        return pa.schema([_POSITION, *_OF_QUARANTINE, *self._as_sent, _EXTRA])

    @property
    def _as_sent(self) -> list[pa.Field[Any]]:
        return [
            pa.field(name, pa.string(), metadata={"description": _of_sent(column)})
            for name, column in self.columns.items()
        ]


def _categories(column: dy.Column) -> tuple[str, ...]:
    return tuple(column.categories) if isinstance(column, dy.Enum) else ()


def _field(name: str, column: dy.Column) -> pa.Field[Any]:
    return pa.field(
        name,
        # A contract with a type that is not stored cannot be made.
        cast("pa.DataType", _stored(column.dtype)),
        nullable=column.nullable,
        metadata={"description": column.description or ""},
    )


def _of_sent(column: dy.Column) -> str:
    return f"As sent. {column.description}" if column.description else "As sent."


def _stored(dtype: pl.DataType) -> pa.DataType | None:
    """The type of a column in files; None if it cannot be stored so that all readers know it."""
    if isinstance(dtype, _TEXT):
        return pa.string()
    if isinstance(dtype, pl.Decimal):
        return pa.decimal128(dtype.precision or _MOST_DIGITS, dtype.scale)
    return _STORED.get(dtype)


def _is_decimal(dtype: pl.Decimal) -> bool:
    return 1 <= dtype.precision <= _MOST_DIGITS and 0 <= dtype.scale <= dtype.precision


def _remedy(dtype: pl.DataType) -> str:
    """Why a type is not landed, and which to use."""
    match dtype:
        case pl.Datetime(time_zone="UTC"):
            return "whose unit not every reader of Parquet knows: give it the time_unit us"
        case pl.Datetime():
            return (
                'which is no moment without a zone: give it time_zone="UTC"; text with another zone'
                " is converted"
            )
        case _ if dtype.is_unsigned_integer():
            return "which Delta and Spark do not have: make it a signed type with min=0"
        case _ if dtype.is_nested():
            return (
                "and rows have no nested columns: leave it out, so that it is kept in"
                " extra_fields, and give each value that you need a column with path="
            )
        case _:
            return (
                "which has no text form that is read without a guess: make it a dy.String, or leave"
                " it out, so that it is kept in extra_fields"
            )


def _form(dtype: pl.DataType) -> str:
    """The form of the text of a type."""
    if isinstance(dtype, pl.Decimal):
        digits = _digits(dtype)
        return rf"^-?(0|[1-9][0-9]{{0,{digits - 1}}}){_decimals(dtype.scale)}$"
    return _FORMS[dtype]


def _digits(dtype: pl.Decimal) -> int:
    """The digits before the point."""
    return max((dtype.precision or _MOST_DIGITS) - dtype.scale, 1)


def _decimals(scale: int) -> str:
    return rf"(\.[0-9]{{1,{scale}}})?" if scale else ""


def _fits(role: Role, dtype: pl.DataType) -> bool:
    match role:
        case "amount":
            return isinstance(dtype, pl.Decimal) or dtype in _INTEGERS
        case "time":
            return dtype == _MOMENT
        case "fraud":
            return dtype == pl.Boolean()
        case "group" | "currency":
            return isinstance(dtype, _TEXT)
        case _:
            return dtype == pl.String()
