"""Published windows, written to a lake without a run."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from txn_platform.contract.schema import PUBLISHED, TRANSACTIONS
from txn_platform.lake.layout import object_key
from txn_platform.lake.parquet import Encoding

if TYPE_CHECKING:
    from txn_platform.lake.base import Lake
    from txn_platform.windows import Window


def published_row(window: Window, number: int, /, **changes: Any) -> dict[str, Any]:
    """Return a row of a window, at its minute `number`; every tenth row is fraud."""
    fraud = number % 10 == 0
    hour = int(window.start.timestamp()) // 3600
    row: dict[str, Any] = {
        "transaction_id": f"019a3c00-0000-7000-8000-{hour:06x}{number:06x}",
        "transaction_at": window.start + timedelta(minutes=number),
        "customer_id": f"C{number}",
        "card_number": "411111******1111",
        "card_token": "a" * 52,
        "merchant_id": "M1",
        "merchant_name": "Café & Söhne",
        "merchant_category_code": "5812",
        "transaction_type": "PURCHASE",
        "channel": "CHIP",
        "amount": Decimal(f"{number}.10"),
        "currency": "EUR" if number % 2 else "USD",
        "country": "FR",
        "latitude": 48.85,
        "longitude": 2.35,
        "is_fraud": fraud,
        "fraud_scenario": "card_testing" if fraud else None,
        "original_transaction_id": None,
    }
    return row | changes


def publish_window(lake: Lake, window: Window, rows: int = 60) -> list[dict[str, Any]]:
    """Put a window of so many rows into the lake, and return them."""
    sent = [published_row(window, number) for number in range(rows)]
    batch = pa.RecordBatch.from_pylist(sent, schema=TRANSACTIONS.published_schema)
    with lake.stage(TRANSACTIONS.published_schema, Encoding(compression="zstd")) as writer:
        writer.write(batch)
        lake.publish(writer.finish(), object_key(PUBLISHED, window))
    return sent
