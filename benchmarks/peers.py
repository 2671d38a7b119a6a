"""Other ways to land a window of the same source, each with the defaults of its library.

    python benchmarks/peers.py dlt-rest|dlt-arrow|row-by-row URL START END DESTINATION

DESTINATION is a directory for dlt, and s3://bucket/prefix for row-by-row, which takes the S3's
address and keys from AWS_ variables. Each contender imports what it needs and nothing of the
platform.
"""

import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urljoin

# The most rows of a page; fewer pages are faster for every peer.
PAGE_ROWS = 50_000


def dlt_rest(url: str, start: str, end: str, destination: str) -> None:
    """Use dlt's REST source and its filesystem destination: fetch, normalise, write Parquet."""
    from dlt.sources.rest_api import rest_api_source

    query = {"start": start, "end": end, "format": "json", "limit": PAGE_ROWS}
    source = rest_api_source(
        {
            "client": {
                "base_url": url,
                "paginator": {"type": "json_link", "next_url_path": "next"},
            },
            "resources": [
                {
                    "name": "transactions",
                    "endpoint": {
                        "path": "/v1/transactions",
                        "params": query,
                        "data_selector": "data",
                    },
                }
            ],
        }
    )
    _load(source, destination)


def dlt_arrow(url: str, start: str, end: str, destination: str) -> None:
    """Use dlt with a resource of Arrow tables: fetch, write Parquet, check nothing."""
    import dlt
    import pyarrow as pa
    import requests

    @dlt.resource(name="transactions")
    def transactions() -> Iterator[pa.Table]:
        query = {"start": start, "end": end, "format": "arrow"}
        with requests.get(
            f"{url}/v1/transactions", params=query, stream=True, timeout=60
        ) as response:
            response.raise_for_status()
            with pa.ipc.open_stream(response.raw) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])

    _load(transactions(), destination)


def _load(data: Any, destination: str) -> None:
    import dlt

    pipeline = dlt.pipeline(
        pipeline_name="transactions",
        destination=dlt.destinations.filesystem(bucket_url=Path(destination).as_uri()),
        dataset_name="lake",
        pipelines_dir=str(Path.cwd() / "pipelines"),
    )
    pipeline.run(data, loader_file_format="parquet").raise_on_failed_jobs()


def row_by_row(url: str, start: str, end: str, destination: str) -> None:
    """Use requests, pydantic, pandas and boto3: pages of JSON, a model a row, one object put."""
    import io

    import boto3
    import pandas as pd
    import requests
    from pydantic import AwareDatetime, BaseModel, Field

    class Transaction(BaseModel):
        """A usual pydantic model of such rows; it has fewer rules than the contract."""

        transaction_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
        transaction_at: AwareDatetime
        customer_id: str
        card_number: Annotated[str, Field(pattern=r"^[0-9]{13,19}$")]
        merchant_id: str
        merchant_name: str
        merchant_category_code: Annotated[str, Field(pattern=r"^[0-9]{4}$")]
        transaction_type: str
        channel: str
        amount: Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=2)]
        currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
        country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
        latitude: Annotated[float, Field(ge=-90, le=90)]
        longitude: Annotated[float, Field(ge=-180, le=180)]
        is_fraud: bool
        fraud_scenario: str | None
        original_transaction_id: str | None

    session = requests.Session()
    query: dict[str, Any] | None = {
        "start": start,
        "end": end,
        "format": "json",
        "limit": PAGE_ROWS,
    }
    address: str | None = f"{url}/v1/transactions"
    rows: list[dict[str, Any]] = []
    while address:
        response = session.get(address, params=query, timeout=60)
        response.raise_for_status()
        page = response.json()
        rows += [Transaction.model_validate(row).model_dump() for row in page["data"]]
        # The next page's address has the query in it.
        address, query = page["next"] and urljoin(url, page["next"]), None
    body = io.BytesIO()
    pd.DataFrame(rows).to_parquet(body, index=False)
    bucket, _, prefix = destination.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(
        Bucket=bucket, Key=f"{prefix}/transactions/part-0.parquet", Body=body.getvalue()
    )


PEERS: dict[str, Callable[[str, str, str, str], None]] = {
    "dlt-rest": dlt_rest,
    "dlt-arrow": dlt_arrow,
    "row-by-row": row_by_row,
}


def main() -> None:
    """Run one contender."""
    name, url, start, end, destination = sys.argv[1:]
    PEERS[name](url, start, end, destination)


if __name__ == "__main__":
    main()
