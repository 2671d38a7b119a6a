"""The schema of a transaction: its columns, their types, rules and meanings.

To change a rule of the data, change it here. The Parquet schema, Dagster's column schema, the names
of reasons and the checks are all made from these classes. `rows/validation` applies the rules.

Field terms: ISO 8583 (types), ISO 18245 (merchant category), ISO 4217 (currency), ISO 3166
(country).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import dataframely as dy
import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import encoded_schema
from txn_platform.contract.card_numbers import LENGTHS, holds_card_number, luhn_is_valid
from txn_platform.contract.codes import COUNTRIES, CURRENCY_EXPONENTS, MERCHANT_CATEGORY_RANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONTRACT_VERSION: Final = "1"

# The tables of the lake, which are Dagster's assets.
RAW: Final = "raw_transactions"
VALIDATED: Final = "validated_transactions"
QUARANTINED: Final = "quarantined_transactions"
PUBLISHED: Final = "s3_parquet_transactions"

TRANSACTION_TYPES: Final = (
    "PURCHASE",
    "CASH_OUT",
    "CASH_IN",
    "PAYMENT",
    "TRANSFER",
    "REFUND",
    "DEBIT",
)
CHANNELS: Final = (
    "CHIP",
    "CONTACTLESS",
    "MAGSTRIPE",
    "ECOMMERCE",
    "MOBILE",
    "ATM",
    "ONLINE_BANKING",
    "BRANCH",
    "STANDING_ORDER",
)
# The values of the columns that have a code list. ISO 18245 divides merchant categories into
# ranges, which are too many codes for a list.
CODES: Final[dict[str, tuple[str, ...]]] = {
    "transaction_type": TRANSACTION_TYPES,
    "channel": CHANNELS,
    "currency": tuple(sorted(CURRENCY_EXPONENTS)),
    "country": tuple(sorted(COUNTRIES)),
}

# The form of a value as text, checked before it is parsed. A cast would round "1.005" and guess the
# zone of a time, and the changed value would look right.
_DECIMAL = r"^-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,2})?$"
# Amounts with three or four decimals, which some currencies allow and contract version 1 does not.
FINER_DECIMAL: Final = r"^-?(?:0|[1-9][0-9]{0,15})\.([0-9]{3,4})$"
# The forms in which programs print a double: up to 17 digits, or an exponent.
_COORDINATE = r"^-?(0|[1-9][0-9]{0,2})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_BOOLEAN = r"^(true|false)$"
_TIMESTAMP = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})$"
)
_UUID7 = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_REFERENCE = r"^[A-Za-z0-9_-]{1,64}$"
CARD_NUMBER: Final = r"^[0-9]{13,19}$"
_PRINTABLE = r"^[^\p{C}\p{Zl}\p{Zp}]+$"
CARD_TOKEN: Final = r"^[a-z2-7]{52}$"  # nosec B105 # noqa: S105 - the form of a token


@dataclass(frozen=True)
class CardForm:
    """A form in which the column `card_number` is published.

    Attributes:
        pattern: a regular expression of its values.
        description: of the column.
        first: digits that a mask shows at the beginning of a number.
        last: digits that it shows at the end.
    """

    pattern: str
    description: str
    first: int = 0
    last: int = 0


type CardMask = Literal["first6last4", "last4", "none"]

DEFAULT_MASK: Final = "first6last4"
CARD_MASKS: Final[dict[CardMask, CardForm]] = {
    DEFAULT_MASK: CardForm(
        r"^[0-9]{6}\*{3,9}[0-9]{4}$", "The card's number, masked: first six, last four", 6, 4
    ),
    "last4": CardForm(r"^\*{9,15}[0-9]{4}$", "The card's number, masked: last four", last=4),
    "none": CardForm(r"^\*{4}$", "`****` for each card: no digit of its number is published"),
}
"""The values of `TXN_CARD_MASK`. No mask shows more than PCI DSS 4.0.1 allows (3.4.1)."""

CARD_IN_CLEAR: Final = CardForm(
    CARD_NUMBER, "The card's number, in clear: this lake is published with TXN_CARD_POLICY=clear"
)


def card_form(policy: str, mask: CardMask) -> CardForm:
    """The form of the column `card_number` under a `TXN_CARD_POLICY` and a `TXN_CARD_MASK`."""
    return CARD_IN_CLEAR if policy == "clear" else CARD_MASKS[mask]


def _one_of(codes: Iterable[str]) -> dict[str, Callable[[pl.Expr], pl.Expr]]:
    allowed = sorted(codes)

    def is_known(text: pl.Expr) -> pl.Expr:
        return text.is_in(allowed)

    return {"unknown": is_known}


def _has_check_digit(number: pl.Expr) -> pl.Expr:
    return number.map_batches(luhn_is_valid, return_dtype=pl.Boolean)


# Some of them, such as zeros alone, have the right check digit. No card has such a number.
_PLACEHOLDERS = [digit * length for length in LENGTHS for digit in "0123456789"]


def _has_different_digits(number: pl.Expr) -> pl.Expr:
    return ~number.is_in(_PLACEHOLDERS)


def _holds_no_card_number(text: pl.Expr) -> pl.Expr:
    return ~text.map_batches(holds_card_number, return_dtype=pl.Boolean)


def _is_no_card_number(identifier: pl.Expr) -> pl.Expr:
    is_one = partial(holds_card_number, whole=True)
    return ~identifier.map_batches(is_one, return_dtype=pl.Boolean)


# Currencies whose amounts have no decimals but zeros.
WITHOUT_DECIMALS: Final = sorted(
    code for code, decimals in CURRENCY_EXPONENTS.items() if not decimals
)


def _is_whole_where_it_must(amount: pl.Expr) -> pl.Expr:
    return ~pl.col("currency").is_in(WITHOUT_DECIMALS) | (amount == amount.round())


class SentTransaction(dy.Schema):
    """A transaction as the source must send it, once its text is parsed."""

    transaction_id = dy.String(
        regex=_UUID7,
        description="UUID version 7 (RFC 9562), lower case: unique in the lake, ordered by time",
    )
    transaction_at = dy.Datetime(
        time_unit="us",
        time_zone="UTC",
        metadata={"text": _TIMESTAMP},
        description="When it happened; inside its window. Sent as RFC 3339, with a zone",
    )
    customer_id = dy.String(
        regex=_REFERENCE,
        check={"card_number": _is_no_card_number},
        description="The paying customer",
    )
    card_number = dy.String(
        regex=CARD_NUMBER,
        check={"check_digit": _has_check_digit, "repeated_digit": _has_different_digits},
        description="The card's number (ISO/IEC 7812), in clear",
    )
    merchant_id = dy.String(
        regex=_REFERENCE,
        check={"card_number": _is_no_card_number},
        description="The store, or another counterparty",
    )
    # The length is not in the pattern: a pattern of Unicode classes that counts is slow.
    merchant_name = dy.String(
        regex=_PRINTABLE,
        max_length=200,
        check={"card_number": _holds_no_card_number},
        description="The store's name: printable text, at most 200 bytes",
    )
    merchant_category_code = dy.String(
        regex=r"^[0-9]{4}$",
        check=_one_of(
            f"{code:04}" for low, high in MERCHANT_CATEGORY_RANGES for code in range(low, high + 1)
        ),
        description="ISO 18245, four digits",
    )
    transaction_type = dy.String(
        check=_one_of(CODES["transaction_type"]),
        description="One of " + ", ".join(TRANSACTION_TYPES),
    )
    channel = dy.String(
        check=_one_of(CODES["channel"]), description="One of " + ", ".join(CHANNELS)
    )
    amount = dy.Decimal(
        18,
        2,
        min_exclusive=Decimal(0),
        check={"exponent": _is_whole_where_it_must},
        metadata={"text": _DECIMAL},
        description="In the currency's unit, above zero; the type says which way it goes",
    )
    currency = dy.String(check=_one_of(CODES["currency"]), description="ISO 4217, three letters")
    country = dy.String(check=_one_of(CODES["country"]), description="ISO 3166-1, two letters")
    latitude = dy.Float64(
        min=-90, max=90, metadata={"text": _COORDINATE}, description="Degrees north, WGS 84"
    )
    longitude = dy.Float64(
        min=-180, max=180, metadata={"text": _COORDINATE}, description="Degrees east, WGS 84"
    )
    is_fraud = dy.Bool(metadata={"text": _BOOLEAN}, description="The label")
    fraud_scenario = dy.String(
        nullable=True,
        regex=r"^[a-z][a-z0-9_]{0,63}$",
        check={
            "card_number": _holds_no_card_number,
            "label_differs": lambda scenario: scenario.is_not_null() == pl.col("is_fraud"),
        },
        description="Which mechanism made the fraud; null when there is none",
    )
    original_transaction_id = dy.String(
        nullable=True,
        regex=_UUID7,
        check={
            "type_differs": lambda original: (
                original.is_null() | (pl.col("transaction_type") == "REFUND").fill_null(value=True)
            ),
            "own_id": lambda original: original != pl.col("transaction_id"),
        },
        description="The purchase that a refund gives back; null for every other type",
    )


class Transaction(SentTransaction):
    """A transaction as it is published: the card number protected."""

    card_number = dy.String(
        regex=CARD_MASKS[DEFAULT_MASK].pattern, description=CARD_MASKS[DEFAULT_MASK].description
    )
    card_token = dy.String(
        regex=CARD_TOKEN,
        description="HMAC-SHA256 of the number under TXN_CARD_KEY, in base32: joins without it",
    )


# Published texts that may hold a card number. Identifiers are refused only if they are one.
FREE_TEXTS: Final = ("merchant_name", "fraud_scenario")
IDENTIFIERS: Final = ("customer_id", "merchant_id")

# The unknown field that holds the bytes of a row that could not be read.
UNREADABLE: Final = "unreadable"
# The unknown field that holds a list of one text: a row, as sent, with two fields of one name.
DUPLICATE_FIELD: Final = "duplicate_field"

SENT_COLUMNS: Final = tuple(SentTransaction.columns())
REQUIRED_COLUMNS: Final = tuple(
    name for name, column in SentTransaction.columns().items() if not column.nullable
)
PUBLISHED_COLUMNS: Final = tuple(
    name
    for sent in SENT_COLUMNS
    for name in ((sent, "card_token") if sent == "card_number" else (sent,))
)
TEXT_PATTERNS: Final[dict[str, str]] = {
    name: column.metadata["text"]
    for name, column in SentTransaction.columns().items()
    if column.metadata
}

# Columns whose values repeat within a window; they are dictionaries (`arrow/dictionaries`).
DICTIONARY_ENCODED_COLUMNS: Final = (
    "customer_id",
    "card_number",
    "card_token",
    "merchant_id",
    "merchant_name",
    "merchant_category_code",
    "transaction_type",
    "channel",
    "amount",
    "currency",
    "country",
    "latitude",
    "longitude",
    "is_fraud",
    "fraud_scenario",
)

_POLARS_TO_ARROW: Final[dict[Any, pa.DataType]] = {
    pl.String(): pa.string(),
    pl.Boolean(): pa.bool_(),
    pl.Float64(): pa.float64(),
    pl.Datetime("us", "UTC"): pa.timestamp("us", tz="UTC"),
    pl.Decimal(18, 2): pa.decimal128(18, 2),
}


def _field(name: str, column: dy.Column) -> pa.Field[Any]:
    return pa.field(
        name,
        _POLARS_TO_ARROW[column.dtype],
        nullable=column.nullable,
        metadata={"description": column.description or ""},
    )


CONFORMING_SCHEMA: Final = encoded_schema(
    pa.schema([_field(name, column) for name, column in SentTransaction.columns().items()]),
    DICTIONARY_ENCODED_COLUMNS,
)

PUBLISHED_SCHEMA: Final = pa.schema(
    [_field(name, Transaction.columns()[name]) for name in PUBLISHED_COLUMNS],
    metadata={"contract": f"transaction v{CONTRACT_VERSION}"},
)


def published_schema(mask: CardMask) -> pa.Schema:
    """`PUBLISHED_SCHEMA`, with the description of a mask."""
    described = {"description": CARD_MASKS[mask].description}
    return with_card_metadata(PUBLISHED_SCHEMA, described)


def with_card_metadata(schema: pa.Schema, metadata: Any) -> pa.Schema:
    """A schema with other metadata of its column `card_number`."""
    at = schema.names.index("card_number")
    return schema.set(at, schema.field(at).with_metadata(metadata))


_AS_SENT: Final = [
    pa.field(name, pa.string(), metadata={"description": f"As sent. {column.description}"})
    for name, column in SentTransaction.columns().items()
]
_EXTRA_FIELDS: Final = pa.field(
    "extra_fields",
    pa.string(),
    metadata={"description": "Fields that the contract does not know, as a JSON object of text"},
)
_POSITION: Final = pa.field(
    "position",
    pa.int64(),
    nullable=False,
    metadata={"description": "The row's place in the source's answer, from 0"},
)

RAW_SCHEMA: Final = pa.schema([_POSITION, *_AS_SENT, _EXTRA_FIELDS])
# The same rows in memory.
LANDED_SCHEMA: Final = encoded_schema(RAW_SCHEMA, DICTIONARY_ENCODED_COLUMNS)

QUARANTINE_SCHEMA: Final = pa.schema(
    [
        _POSITION,
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
        *_AS_SENT,
        _EXTRA_FIELDS,
    ]
)
