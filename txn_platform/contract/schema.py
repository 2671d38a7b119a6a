"""The contract of the platform's own source: the columns of a transaction, and their rules.

To change a rule of the data, change it here. No other module knows these columns: schemas, the
names of reasons and the checks are made from the object `TRANSACTIONS`. `rows/validation` applies
the rules.

Field terms: ISO 8583 (types), ISO 18245 (merchant category), ISO 4217 (currency), ISO 3166
(country).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import dataframely as dy
import polars as pl

from txn_platform.contract.card_forms import CARD_MASKS, CARD_NUMBER, CARD_TOKEN, DEFAULT_MASK
from txn_platform.contract.codes import COUNTRIES, CURRENCY_EXPONENTS, MERCHANT_CATEGORY_RANGES
from txn_platform.contract.columns import code
from txn_platform.contract.model import CheckText, Contract

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
# The forms in which programs print a double: up to 17 digits, or an exponent.
_COORDINATE = r"^-?(0|[1-9][0-9]{0,2})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_UUID7 = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_REFERENCE = r"^[A-Za-z0-9_-]{1,64}$"
_PRINTABLE = r"^[^\p{C}\p{Zl}\p{Zp}]+$"
# Amounts with three or four decimals, which some currencies allow and contract version 1 does not.
_FINER_DECIMAL = r"^-?(?:0|[1-9][0-9]{0,15})\.([0-9]{3,4})$"


_MERCHANT_CATEGORIES = [
    f"{category:04}" for low, high in MERCHANT_CATEGORY_RANGES for category in range(low, high + 1)
]


def _is_merchant_category(text: pl.Expr) -> pl.Expr:
    return text.is_in(_MERCHANT_CATEGORIES)


# Currencies whose amounts have no decimals but zeros.
_WITHOUT_DECIMALS: Final = sorted(
    code for code, decimals in CURRENCY_EXPONENTS.items() if not decimals
)


def _is_whole_where_it_must(amount: pl.Expr) -> pl.Expr:
    return ~pl.col("currency").is_in(_WITHOUT_DECIMALS) | (amount == amount.round())


# An amount with as many decimals as its currency has, which is more than the contract allows.
_FINER: Final = pl.col("sent.amount").str.extract(_FINER_DECIMAL).str.len_bytes() <= pl.col(
    "currency"
).replace_strict(CURRENCY_EXPONENTS, default=None, return_dtype=pl.UInt32)


_NOTE_ON_AMOUNTS: Final = """\
Amounts have the decimals that ISO 4217 gives their currency: JPY has none, so `100` and `100.00`
conform. This version of the contract keeps two decimals. Some currencies have three or four (BHD,
IQD, JOD, KWD, LYD, OMR, TND, CLF, UYW). Their amounts are published only if they are sent with two.
"""


class SentTransaction(dy.Schema):
    """A transaction as the source must send it, once its text is parsed."""

    transaction_id = dy.String(
        regex=_UUID7,
        metadata={"role": "id", "card_numbers": "none"},
        description="UUID version 7 (RFC 9562), lower case: unique in the lake, ordered by time",
    )
    transaction_at = dy.Datetime(
        time_unit="us",
        time_zone="UTC",
        metadata={"role": "time"},
        description="When it happened; inside its window. Sent as RFC 3339, with a zone",
    )
    customer_id = dy.String(
        regex=_REFERENCE,
        metadata={"repeats": True, "card_numbers": "whole", "personal": "pseudonym"},
        description="The paying customer",
    )
    card_number = dy.String(
        regex=CARD_NUMBER,
        metadata={"role": "card"},
        description="The card's number (ISO/IEC 7812), in clear",
    )
    merchant_id = dy.String(
        regex=_REFERENCE,
        metadata={"repeats": True, "card_numbers": "whole"},
        description="The store, or another counterparty",
    )
    # The length is not in the pattern: a pattern of Unicode classes that counts is slow.
    merchant_name = dy.String(
        regex=_PRINTABLE,
        max_length=200,
        metadata={"repeats": True, "shown": True},
        description="The store's name: printable text, at most 200 bytes",
    )
    merchant_category_code = dy.String(
        regex=r"^[0-9]{4}$",
        check={"unknown": _is_merchant_category},
        metadata={"repeats": True, "card_numbers": "none"},
        description="ISO 18245, four digits",
    )
    transaction_type = code(
        "One of " + ", ".join(TRANSACTION_TYPES), TRANSACTION_TYPES, role="group"
    )
    channel = code("One of " + ", ".join(CHANNELS), CHANNELS)
    amount = dy.Decimal(
        18,
        2,
        min_exclusive=Decimal(0),
        check={"exponent": _is_whole_where_it_must},
        metadata={
            "role": "amount",
            "repeats": True,
            "checks": {
                "exponent": CheckText(
                    "more decimals than the currency has (ISO 4217), or than two",
                    "no more decimals than its currency has",
                )
            },
            "note": _NOTE_ON_AMOUNTS,
            "only_where": {"exponent": pl.col("currency").is_in(_WITHOUT_DECIMALS)},
            "text_problems": {"exponent": _FINER},
        },
        description="In the currency's unit, above zero; the type says which way it goes",
    )
    currency = code("ISO 4217, three letters", sorted(CURRENCY_EXPONENTS), role="currency")
    country = code("ISO 3166-1, two letters", sorted(COUNTRIES))
    latitude = dy.Float64(
        min=-90,
        max=90,
        metadata={"text": _COORDINATE, "repeats": True, "personal": "location"},
        description="Degrees north, WGS 84",
    )
    longitude = dy.Float64(
        min=-180,
        max=180,
        metadata={"text": _COORDINATE, "repeats": True, "personal": "location"},
        description="Degrees east, WGS 84",
    )
    is_fraud = dy.Bool(metadata={"role": "fraud", "repeats": True}, description="The label")
    fraud_scenario = dy.String(
        nullable=True,
        regex=r"^[a-z][a-z0-9_]{0,63}$",
        check={"label_differs": lambda scenario: scenario.is_not_null() == pl.col("is_fraud")},
        metadata={
            "repeats": True,
            "checks": {
                "label_differs": CheckText(
                    "there is one although `is_fraud` is false, or none although it is true",
                    "present exactly if is_fraud is true",
                )
            },
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
        metadata={
            "card_numbers": "none",
            "checks": {
                "type_differs": CheckText(
                    "there is one although the type is not REFUND", "only for REFUND"
                ),
                "own_id": CheckText("the refund's own id", "not the row's own id"),
            },
            "only_where": {"own_id": pl.col("original_transaction_id").is_not_null()},
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


TRANSACTIONS: Final = Contract("transaction", CONTRACT_VERSION, SentTransaction, Transaction)
