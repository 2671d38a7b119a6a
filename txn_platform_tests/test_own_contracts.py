"""Contracts that share no column with the platform's own, through the assets and the lake.

The rows that were published are read back by DuckDB and by deltalake, and compared with what the
test wrote by hand.
"""

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import dataframely as dy
import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from txn_platform.contract.columns import (
    code,
    decimal,
    flag,
    rfc3339,
    text,
    unix_millis,
    unix_seconds,
    whole,
)
from txn_platform.contract.model import Contract
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.defs import checks
from txn_platform.defs.assets import window_assets
from txn_platform.defs.resources import GeneratorResource
from txn_platform.feeds import GENERATOR_FEED
from txn_platform.lake.opening import open_lake
from txn_platform.lake.quarantine import look_into
from txn_platform.rows.ids import id_hashes
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.support.run_resources import run_resources
from txn_platform_tests.support.served_handler import served_by

_PARTITION = "2026-11-01-00:00"
_START = 1793491200
_PUBLISHED = "s3_parquet_transactions"


class Charge(dy.Schema):
    """Nested JSON, as of Stripe: no card, amounts by currency."""

    ref = text("The charge", path="id", role="id", regex=r"^ch_[A-Za-z0-9]{3,}$")
    made = unix_seconds("When it was made", path="created", role="time")
    day = dy.Date(description="The day of the statement", metadata={"path": "statement.day"})
    units = dy.Int64(description="Pieces", min=1)
    price = decimal("In the unit of its currency", role="amount", precision=12, scale=4)
    ccy = code("ISO 4217, lower case", ["usd", "eur"], path="money.ccy", role="group")
    memo = dy.String(nullable=True, description="As it was typed")
    brand = text("Of the card", path="method.card.brand", nullable=True)


class Login(dy.Schema):
    """Neither amounts nor cards."""

    event = text("The event", role="id")
    seen = rfc3339("When it was seen", role="time")
    good = flag("Whether it was let in", true="Y", false="N")


class Purchase(dy.Schema):
    """A card, whole amounts, a currency, and an enumeration."""

    number = text("The purchase", role="id")
    at = unix_millis("When it was bought", role="time")
    pan = text("The card, if one paid", path="card.pan", role="card", nullable=True)
    cents = whole("In the smallest unit", role="amount")
    money = dy.Enum(["USD", "JPY"], description="ISO 4217", metadata={"role": "group"})
    fraud = flag("The label", role="fraud")


CHARGES = Contract("charge", "3", Charge)
LOGINS = Contract("login", "1", Login)
PURCHASES = Contract("purchase", "1", Purchase)


def _charge(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"ch_{number:03}",
        "created": _START + number,
        "statement": {"day": "2026-11-02", "cycle": [1, {"day": "no"}]},
        "units": number + 1,
        "price": "0.1250",
        "money": {"ccy": "usd" if number % 2 else "eur"},
        "memo": None,
        "method": {"card": {"brand": "visa", "last4": "4242"}, "type": "card"},
        "extra": 12.50,
    }
    return row | changes


def _json(rows: Sequence[Any]) -> bytes:
    # Some sources write numbers that Python would write otherwise.
    return json.dumps(rows).replace('"RAW:', "").replace(':RAW"', "").encode()


@dataclass
class _Api:
    """The generator's API over rows of another contract, all in the first minute of the window."""

    rows: list[dict[str, Any]]
    form: str = "json"
    totals: dict[str, Any] | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, query: dict[str, list[str]]) -> bytes | None:
        if path == "/v1/watermark":
            return b'{"watermark": "2026-11-20T00:00:00Z"}'
        if path == "/v1/control-totals":
            return json.dumps(self.totals or self._counted()).encode()
        if path != "/v1/transactions":
            return None
        rows = self.rows if query["start"] == ["2026-11-01T00:00:00Z"] else []
        if self.form == "json":
            return b'{"next": null, "data": ' + _json(rows) + b"}"
        return b"".join(_json(row) + b"\n" for row in rows)

    def _counted(self) -> dict[str, Any]:
        raise NotImplementedError


@contextmanager
def _served(api: _Api) -> Iterator[_Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            api.asked.append(parts.path)
            body = api.answer(parts.path, parse_qs(parts.query))
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

    with served_by(Handler) as api.url:
        yield api


def _stated(rows: int, ids: Sequence[str], **amounts: str) -> dict[str, Any]:
    """Control totals as a source states them, by hand."""
    digest = int(id_hashes(pa.array(ids, pa.string())).sum())
    return {"rows": rows, "amount_by_type": amounts, "ids_digest": f"{digest:016x}"}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TXN_MAX_QUARANTINE", "1")


def _run(contract: Contract, api: _Api, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GENERATOR_FORMAT", api.form)
    with _served(api):
        return dg.materialize(
            window_assets(replace(GENERATOR_FEED, contract=contract)),
            partition_key=_PARTITION,
            resources=run_resources(GeneratorResource(url=api.url)),
            raise_on_error=False,
        )


def _read(asset: str) -> duckdb.DuckDBPyRelation:
    path = Path(".txn/lake", asset, "event_date=2026-11-01/event_hour=00/part-0.parquet")
    return duckdb.sql(f"from read_parquet('{path}', hive_partitioning = false)")


def _metadata(result: Any, asset: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in event.metadata.items()}


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_a_nested_contract_lands_with_the_digits_that_were_sent(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta = Path("delta").absolute()
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(delta))
    rows = [
        _charge(2, memo="späte Zahlung\n\0", price="RAW:12345678.1234:RAW"),
        _charge(1, method={"card": None}, price="-0.0001"),
        _charge(0, method="none", memo=""),
        _charge(3, price="0.00001"),
        _charge(4, statement={"day": "2026-02-30"}, units="RAW:1.0:RAW"),
        _charge(5, money={"ccy": "USD"}, memo="4111 1111 1111 1111"),
        _charge(1, price="-0.0001", method={"card": None}),
        _charge(6, created=_START - 1),
        _charge(7, **{"method.card.brand": "amex"}),
    ]
    rows += [_charge(8, money={"ccy": "378282246310005"})]
    ids = [row["id"] for row in rows]
    amounts = {"eur": "12345678.4984", "usd": "0.1248", "USD": "0.125", "378282246310005": "0.1250"}
    stated = _stated(len(rows), ids, **amounts)
    result = _run(CHARGES, _Api(rows, form, stated), monkeypatch)
    assert result.success
    found = _read(_PUBLISHED)
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
        "ref": "VARCHAR",
        "made": "TIMESTAMP WITH TIME ZONE",
        "day": "DATE",
        "units": "BIGINT",
        "price": "DECIMAL(12,4)",
        "ccy": "VARCHAR",
        "memo": "VARCHAR",
        "brand": "VARCHAR",
    }
    day = dt.date(2026, 11, 2)
    expected = [
        ("ch_000", _START, day, 1, Decimal("0.1250"), "eur", "", None),
        ("ch_001", _START + 1, day, 2, Decimal("-0.0001"), "usd", None, None),
        (
            "ch_002",
            _START + 2,
            day,
            3,
            Decimal("12345678.1234"),
            "eur",
            "späte Zahlung\n\0",
            "visa",
        ),
        ("ch_007", _START + 7, day, 8, Decimal("0.1250"), "usd", None, "amex"),
    ]
    assert found.select(
        "ref, epoch(made)::bigint, day, units, price, ccy, memo, brand"
    ).fetchall() == (expected)
    quarantined = _read("quarantined_transactions")
    reasons = quarantined.select("position, reasons, contract_version").fetchall()
    assert reasons == [
        (3, ["price.format"], "3"),
        (4, ["day.format", "units.format"], "3"),
        (5, ["ccy.unknown", "memo.card_number"], "3"),
        (6, ["ref.duplicate"], "3"),
        (7, ["made.outside_window"], "3"),
        (9, ["ccy.unknown"], "3"),
    ]
    published = Path(".txn/lake", _PUBLISHED).rglob("*.parquet")
    assert not any(b"378282246310005" in file.read_bytes() for file in published)
    extra = [
        json.loads(each) for (each,) in _read("raw_transactions").select("extra_fields").fetchall()
    ]
    assert json.loads(extra[0]["method"]) == rows[0]["method"], "the container stays whole"
    assert extra[0]["extra"] == "12.5"
    table = pa.table(DeltaTable(delta).to_pyarrow_table()).sort_by("ref")
    assert table["price"].to_pylist() == [row[4] for row in expected]
    assert table["day"].to_pylist() == [day] * 4
    metadata = _metadata(result, _PUBLISHED)
    assert (metadata["amount_eur"], metadata["amount_usd"]) == (12345678.2484, 0.1249)
    assert not {"fraud_share", "card_policy"} & metadata.keys()
    assert not list(Path(".txn").rglob("card*")), "no key is made"
    view = look_into(
        open_lake(load_settings()),
        checks.RAW,
        checks.QUARANTINED,
        Window.of_partition(_PARTITION),
        contract=CHARGES,
    )
    assert view.reasons["memo.card_number"].examples == ["4111 11** **** 1111"]


def test_rows_without_amounts_or_cards_are_compared_by_rows_and_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        {"event": f"e{number}", "seen": f"2026-11-01T00:00:{number:02}Z", "good": "YN"[number % 2]}
        for number in range(4)
    ]
    ids = [row["event"] for row in rows]
    result = _run(LOGINS, _Api(rows, totals=_stated(4, ids)), monkeypatch)
    assert result.success
    assert _read(_PUBLISHED).select("event, good").fetchall() == [
        ("e0", True), ("e1", False), ("e2", True), ("e3", False),
    ]  # fmt: skip
    assert _metadata(result, _PUBLISHED)["dagster/partition_row_count"] == 4
    lost = _run(LOGINS, _Api(rows[:3], totals=_stated(4, ids)), monkeypatch)
    assert not lost.success
    assert _read(_PUBLISHED).shape[0] == 4, "the last good object stays"


def test_a_card_of_any_name_is_published_as_mask_and_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TXN_CARD_KEY", "4c91fa6d2b7e35a8cd0f1e9b6a7d8c3e")
    cards = ["4111111111111111", "378282246310005", "4111111111111111", "4111111111111112", None]
    rows = [
        {
            "number": str(number),
            "at": _START * 1000 + number,
            "card": {"pan": card},
            "cents": (number + 1) * 100,
            "money": "USD" if number < 2 else "JPY",
            "fraud": number == 1,
        }
        for number, card in enumerate(cards)
    ]
    totals = _stated(5, [str(number) for number in range(5)], USD="300", JPY="1200")
    result = _run(PURCHASES, _Api(rows, totals=totals), monkeypatch)
    assert result.success
    found = _read(_PUBLISHED)
    assert found.columns == ["number", "at", "pan", "card_token", "cents", "money", "fraud"]
    published = found.select("pan, cents, money").fetchall()
    assert published == [
        ("411111******1111", 100, "USD"),
        ("378282*****0005", 200, "USD"),
        ("411111******1111", 300, "JPY"),
        (None, 500, "JPY"),
    ]
    tokens = [token for (token,) in found.select("card_token").fetchall()]
    assert tokens[0] == tokens[2] != tokens[1]
    assert tokens[3] is None
    assert _read("quarantined_transactions").select("reasons").fetchall() == [
        (["pan.check_digit"],)
    ]
    metadata = _metadata(result, _PUBLISHED)
    assert (metadata["amount_USD"], metadata["amount_JPY"]) == (300, 800)
    assert metadata["fraud_share"] == 1 / 4
    content = Path(
        ".txn/lake", _PUBLISHED, "event_date=2026-11-01/event_hour=00/part-0.parquet"
    ).read_bytes()
    assert b"4111111111111111" not in content


def test_the_contracts_share_no_column_with_the_platforms_own() -> None:
    for contract in (CHARGES, LOGINS, PURCHASES):
        assert not {*contract.names} & {*TRANSACTIONS.names}
