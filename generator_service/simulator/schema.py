"""The columns of a row, their Arrow types and their vocabularies."""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

type TransactionType = Literal[
    "PURCHASE", "CASH_OUT", "CASH_IN", "PAYMENT", "TRANSFER", "REFUND", "DEBIT"
]
type Channel = Literal[
    "CHIP",
    "CONTACTLESS",
    "MAGSTRIPE",
    "ECOMMERCE",
    "ATM",
    "MOBILE",
    "ONLINE_BANKING",
    "BRANCH",
    "STANDING_ORDER",
]

TRANSACTION_TYPES: tuple[str, ...] = get_args(TransactionType.__value__)
"""The type of a transaction; named after ISO 8583's processing codes."""

CHANNELS: tuple[str, ...] = get_args(Channel.__value__)
"""How a customer paid."""

_ENCODED = pa.dictionary(pa.int32(), pa.string())

MOMENT = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("transaction_at", MOMENT, nullable=False),
        pa.field("customer_id", pa.string(), nullable=False),
        pa.field("card_number", pa.string(), nullable=False),
        pa.field("merchant_id", _ENCODED, nullable=False),
        pa.field("merchant_name", _ENCODED, nullable=False),
        pa.field("merchant_category_code", _ENCODED, nullable=False),
        pa.field("transaction_type", _ENCODED, nullable=False),
        pa.field("channel", _ENCODED, nullable=False),
        pa.field("amount", pa.decimal128(18, 2), nullable=False),
        pa.field("currency", _ENCODED, nullable=False),
        pa.field("country", _ENCODED, nullable=False),
        pa.field("latitude", pa.float64(), nullable=False),
        pa.field("longitude", pa.float64(), nullable=False),
        pa.field("is_fraud", pa.bool_(), nullable=False),
        pa.field("fraud_scenario", _ENCODED),
        pa.field("original_transaction_id", pa.string()),
    ]
)
"""Rows of the simulator. Columns with few values are dictionary-encoded, with shared dictionaries.
original_transaction_id is the purchase that a refund refunds, else null."""

DICTIONARY_ENCODED_SCHEMA = pa.schema(
    [
        field.with_type(_ENCODED) if field.name in {"customer_id", "card_number"} else field
        for field in SCHEMA
    ]
)
"""The same with customers and cards dictionary-encoded, with dictionaries of all of them: less work
and fewer bytes when there are more rows than customers."""

COORDINATES_ENCODED_SCHEMA = pa.schema(
    [
        field.with_type(pa.dictionary(pa.int32(), field.type))
        if field.name in {"latitude", "longitude"}
        else field
        for field in DICTIONARY_ENCODED_SCHEMA
    ]
)
"""The same with coordinates dictionary-encoded, which saves work when they are written as text."""
