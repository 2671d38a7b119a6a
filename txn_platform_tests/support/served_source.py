"""A source whose rows the test decides, served over HTTP with the generator's API."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import polars as pl
import pyarrow as pa

from txn_platform.arrow.dictionaries import as_batch
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform_tests.support.served_handler import served_by

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txn_platform.rows.duplicates import Batches


def sent_row(number: int, /, **changes: str | None) -> dict[str, str | None]:
    """Return a conforming row of the first hour of 2026-11-01; `number` makes it unique."""
    row: dict[str, str | None] = {
        "transaction_id": f"019a3c00-0000-7000-8000-{number:012x}",
        "transaction_at": f"2026-11-01T00:{number // 60 % 60:02}:{number % 60:02}.000001Z",
        "customer_id": f"C{number}",
        "card_number": "4111111111111111",
        "merchant_id": "M1",
        "merchant_name": "Café & Söhne",
        "merchant_category_code": "5812",
        "transaction_type": "PURCHASE",
        "channel": "CHIP",
        "amount": f"{number + 1}.50",
        "currency": "USD",
        "country": "US",
        "latitude": "40.712800",
        "longitude": "-74.006000",
        "is_fraud": "false",
        "fraud_scenario": None,
        "original_transaction_id": None,
    }
    return row | changes


def sent_frame(rows: list[dict[str, str | None]]) -> pl.DataFrame:
    """Return rows as on the wire: all columns as text."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or list(TRANSACTIONS.names)
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String))


def landed_rows(rows: list[dict[str, str | None]]) -> pa.RecordBatch:
    """Return rows as the platform lands them, in order."""
    kinds = {
        name: pl.Int64 if name == "position" else pl.String
        for name in TRANSACTIONS.landed_schema.names
    }
    numbered = [{"extra_fields": None} | row | {"position": at} for at, row in enumerate(rows)]
    return as_batch(pl.DataFrame(numbered, schema=kinds), TRANSACTIONS.landed_schema)


def in_batches(rows: pa.RecordBatch, size: int) -> Batches:
    """Return a function that yields the rows in batches of a size."""

    def batches(columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        for start in range(0, max(1, rows.num_rows), size):
            batch = rows.slice(start, size)
            yield batch if columns is None else batch.select(columns)

    return batches


@dataclass
class ServedSource:
    """The content of a source; a test may change it while it is served."""

    rows: list[dict[str, str | None]]
    watermark: datetime = datetime(2026, 11, 20, tzinfo=UTC)
    totals: ControlTotals | None = None
    openapi: dict[str, Any] | None = None
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""

    @staticmethod
    def _sent_at(transaction_at: str, hour: str) -> str:
        """Return when a row is sent: its time, or the hour's start if it is outside."""
        of_the_hour = transaction_at.startswith(hour) and transaction_at.endswith("Z")
        return transaction_at[:-1] if of_the_hour else f"{hour}:00:00"

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        if path == "/v1/watermark":
            return 200, json.dumps({"watermark": self.watermark.isoformat()}).encode()
        if path == "/openapi.json":
            return (404, b"") if self.openapi is None else (200, json.dumps(self.openapi).encode())
        start, end = query["start"][:-1], query["end"][:-1]
        hour = start[:13]
        rows = [
            row
            for row in self.rows
            if start <= self._sent_at(row["transaction_at"] or "", hour) < end
        ]
        frame = sent_frame(rows)
        if path == "/v1/control-totals":
            return 200, (self.totals or ControlTotals.of(frame)).to_json().encode()
        sink = io.BytesIO()
        table = frame.to_arrow().cast(pa.schema([(name, pa.string()) for name in frame.columns]))
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return 200, sink.getvalue()


@contextmanager
def served(source: ServedSource) -> Iterator[ServedSource]:
    """Serve it on a free port of the loopback interface."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            source.requests.append(parts.path)
            fault = source.faults.pop(0) if parts.path in source.faults[:1] else None
            status, body = source.answer(parts.path, dict(parse_qsl(parts.query)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in source.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if fault:
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            else:
                self.wfile.write(body)

    with served_by(Handler) as source.url:
        yield source
