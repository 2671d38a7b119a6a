"""How fast rows are validated, with their reasons, against pydantic reading the same rows as JSON.

The rows are the generator's, as text, in memory; alternating in one run, the median counts.

    python benchmarks/validation.py [--runs N] [--rows N]
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Literal

import polars as pl
import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter

from generator_service.export import export
from generator_service.settings import Settings
from generator_service.simulator import Simulator
from generator_service.simulator import Window as Span
from generator_service.wire import Format
from txn_platform.arrow.dictionaries import as_batch, as_frame
from txn_platform.contract.schema import CHANNELS, TRANSACTION_TYPES, TRANSACTIONS
from txn_platform.rows.validation import Validator, find_repeats
from txn_platform.source.decoding import DECODERS
from txn_platform.windows import Window

WINDOW = Window.of_partition("2026-11-01-18:00")
BATCH = 1 << 20
# A mixture without strings of a megabyte, which would measure memory and nothing else.
BAD = "amount:0.02,time:0.01,null_field:0.01,currency_unknown:0.01"


class Row(BaseModel):
    """A usual pydantic model of such rows; it has fewer rules than the contract."""

    transaction_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    transaction_at: AwareDatetime
    customer_id: str
    card_number: Annotated[str, Field(pattern=r"^[0-9]{13,19}$")]
    merchant_id: str
    merchant_name: str
    merchant_category_code: Annotated[str, Field(pattern=r"^[0-9]{4}$")]
    transaction_type: Literal[TRANSACTION_TYPES]  # pyright: ignore[reportInvalidTypeForm] - made from the contract
    channel: Literal[CHANNELS]  # pyright: ignore[reportInvalidTypeForm] - made from the contract
    amount: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=2)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]
    is_fraud: bool
    fraud_scenario: str | None
    original_transaction_id: str | None


def sent(rows: int, defects: str) -> tuple[list[pa.RecordBatch], bytes]:
    """Return rows as validation reads them, a batch for each row group, and as lines of JSON."""
    seconds = (WINDOW.end - WINDOW.start).total_seconds()
    settings = Settings.load(tps=rows / seconds, defects=defects)
    simulator = Simulator(settings.configuration())
    span = Span(*(int(moment.timestamp()) * 10**6 for moment in (WINDOW.start, WINDOW.end)))
    lines = io.BytesIO()
    export(simulator, span, Format.NDJSON, lines, injector=settings.injector(span))
    body = lines.getvalue()
    frame = pl.concat(map(as_frame, DECODERS["ndjson"](io.BytesIO(body))))
    frame = frame.with_row_index("position")
    return [as_batch(part, TRANSACTIONS.landed_schema) for part in frame.iter_slices(BATCH)], body


def ours(batches: list[pa.RecordBatch]) -> int:
    """Validate all rows; return the number of quarantined ones."""
    repeats = find_repeats(
        lambda names: (batch if names is None else batch.select(names) for batch in batches)
    )
    return sum(
        result.quarantined.num_rows for result in map(Validator(WINDOW, repeats).validate, batches)
    )


def theirs(lines: list[bytes]) -> int:
    """Validate with pydantic; return the number of refused rows."""
    adapter = TypeAdapter(Row)
    refused = 0
    for line in lines:
        try:
            adapter.validate_json(line)
        except ValueError:
            refused += 1
    return refused


def rate(work: Callable[[], int], rows: int) -> tuple[float, int]:
    """Return the rows a second, and the result."""
    started = time.perf_counter()
    found = work()
    return rows / (time.perf_counter() - started), found


def main() -> None:
    """Print a line for each mixture of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    asked = parser.parse_args()
    for label, defects in (("clean", ""), ("5 % bad", BAD)):
        batches, body = sent(asked.rows, defects)
        rows = sum(batch.num_rows for batch in batches)
        lines = body.splitlines()[: rows // 5]
        rates: list[float] = []
        peers: list[float] = []
        found = 0
        for _ in range(asked.runs):
            speed, found = rate(lambda batches=batches: ours(batches), rows)
            rates.append(speed)
            peers.append(rate(lambda lines=lines: theirs(lines), len(lines))[0])
        one, other = statistics.median(rates), statistics.median(peers)
        print(
            f"{label:8} {rows:,} rows, {found:,} quarantined: {one / 1e6:.2f} M rows/s;"
            f" pydantic {other / 1e6:.3f} M rows/s; ratio {one / other:.1f}"
        )


if __name__ == "__main__":
    main()
