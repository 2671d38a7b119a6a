"""Defects on request: every kind, in every format, and their account."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import hypothesis
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator_service import wire
from generator_service.app import create_app
from generator_service.defects import (
    ACCOUNT_SCHEMA,
    KINDS,
    DefectInjector,
    Defects,
    Drift,
    parse_drifts,
)
from generator_service.export import export
from generator_service.models import Defect, parse_moment
from generator_service.settings import Settings, SettingsError
from generator_service.simulator import (
    COORDINATES_ENCODED_SCHEMA,
    DICTIONARY_ENCODED_SCHEMA,
    SCHEMA,
    Configuration,
    Simulator,
    Window,
)
from generator_service.wire import Format
from txn_platform import windows
from txn_platform.arrow import dictionaries as columns
from txn_platform.contract import reasons
from txn_platform.contract import schema as contract
from txn_platform.rows import validation
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.source.decoding import DECODERS
from txn_platform_tests.generator_service.test_app import HOUR, NOW, problem, serve, settings
from txn_platform_tests.support.defect_reasons import reasons_of_defect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txn_platform_tests.generator_service.test_app import Service

START = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
WINDOW = Window(START, START + 3_600_000_000)
PATH = "/v1/transactions"
ALL = "all:0.2"
# Without megabytes, for tests that do not need them.
SMALL = ",".join(f"{kind}:0.01" for kind in KINDS if kind != "huge_string")
FORMATS = list(Format)


@pytest.fixture(scope="module")
def batches() -> list[pa.RecordBatch]:
    """An hour of some 50,000 typed rows."""
    return list(Simulator(Configuration(tps=16, customers=500, merchants=100)).batches(WINDOW))


@pytest.fixture(scope="module")
def few() -> list[pa.RecordBatch]:
    """The same hour with some 3,600 rows."""
    return list(Simulator(Configuration(tps=1, customers=500, merchants=100)).batches(WINDOW))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serve(create_app(settings(), now=lambda: NOW)) as service:
        yield service


def injector(defects: str = "", drift: str = "", window: Window = WINDOW) -> DefectInjector:
    return DefectInjector(Defects.parse(defects), parse_drifts(drift), 0, window)


def frames(injector: DefectInjector, batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows as sent in Arrow, as the platform lands them: text, unknown fields together."""
    position = 0
    for batch in injector.batches(batches, Format.ARROW):
        frame = pl.DataFrame(batch).with_columns(pl.all().cast(pl.String))
        unknown = [name for name in frame.columns if name not in contract.TRANSACTIONS.names]
        landed = frame.select(
            pl.int_range(position, position + pl.len(), dtype=pl.Int64).alias("position"),
            *contract.TRANSACTIONS.names,
            pl.struct(unknown or [pl.lit(None)]).struct.json_encode().alias("extra_fields"),
        )
        yield columns.as_batch(landed, contract.TRANSACTIONS.landed_schema)
        position += frame.height


def account_of(injector: DefectInjector, batches: list[pa.RecordBatch]) -> pl.DataFrame:
    table = pa.Table.from_batches(injector.account(batches, 0), ACCOUNT_SCHEMA)
    return pl.DataFrame(table).with_columns(pl.col("kind", "field").cast(pl.String))


# The contract of the platform.


def test_every_kind_is_expected_to_break_rules_that_exist():
    named = {
        reason
        for kind in KINDS
        for original in (None, "an id")
        for reason in reasons_of_defect(kind, original=original)
    }
    assert len(named) > 15
    assert named <= set(reasons.reasons(contract.TRANSACTIONS))


def quarantined(sent: list[pa.RecordBatch]) -> dict[int, list[str]]:
    """The reasons that the platform finds, by the position of the row."""
    window = windows.Window(datetime(2026, 11, 1, tzinfo=UTC))
    repeats = validation.find_repeats(
        lambda names: (batch if names is None else batch.select(names) for batch in sent)
    )
    validator = validation.Validator(window, repeats)
    found = (validator.validate(rows).quarantined for rows in sent)
    return {
        row["position"]: sorted(row["reasons"])
        for rows in found
        for row in rows.select(["position", "reasons"]).to_pylist()
    }


def expected(account: pl.DataFrame, sent: list[pa.RecordBatch]) -> dict[int, list[str]]:
    """The reasons of the account's defects, by the position of the row."""
    originals = pl.concat(pl.DataFrame(batch) for batch in sent)["original_transaction_id"]
    reasons_by_position = {
        position: reasons_of_defect(kind, original=originals[position])
        for position, kind in account.select("position", "kind").iter_rows()
    }
    return {position: found for position, found in reasons_by_position.items() if found}


def test_the_platform_quarantines_what_is_in_the_account_and_nothing_else(
    batches: list[pa.RecordBatch],
):
    """Precision and recall are 1.0, and every row has exactly the expected reasons."""
    injecting = injector(ALL)
    account = account_of(injecting, batches)
    assert sum(batch.num_rows for batch in batches) > 50_000
    assert set(account["kind"]) == set(KINDS)
    sent = list(frames(injecting, batches))
    found = quarantined(sent)
    assert found == expected(account, sent)
    conforming = account.filter(~pl.col("position").is_in(list(found)))
    assert set(conforming["kind"]) == {"extra_field", "wrong_type_number"}


@pytest.mark.parametrize("form", [Format.ARROW, Format.CSV, Format.NDJSON])
def test_the_platform_finds_the_same_reasons_in_every_format(
    few: list[pa.RecordBatch], form: Format
):
    injecting = injector("all:0.6")
    body = io.BytesIO(sent_as(injecting, few, form))
    decoded = pl.concat(map(columns.as_frame, DECODERS[form.value](body)))
    landed = columns.as_batch(
        decoded.with_row_index("position"), contract.TRANSACTIONS.landed_schema
    )
    account = account_of(injecting, few)
    assert set(account["kind"]) == set(KINDS)
    assert quarantined([landed]) == expected(account, [landed])


def test_the_platform_computes_the_control_totals_that_the_source_states(
    batches: list[pa.RecordBatch],
):
    injecting = injector(ALL)
    sent = injecting.sent(batches)
    computed = sum(
        (ControlTotals.of(frame) for frame in frames(injecting, batches)), ControlTotals()
    )
    assert sent.totals.rows == computed.rows > sum(batch.num_rows for batch in batches)
    assert sent.totals.amount_by_type == computed.amount_by_type
    assert {"", "GIFT"} < set(sent.totals.amount_by_type)
    assert sent.totals.ids_digest == f"{computed.ids_digest:016x}"
    assert sent.entries == account_of(injecting, batches).height


# The selected rows.


def clean_rows(batches: list[pa.RecordBatch]) -> list[dict[str, str | None]]:
    return [row for batch in wire.text_batches(batches) for row in batch.to_pylist()]


def sent_rows(
    injector: DefectInjector, batches: list[pa.RecordBatch]
) -> list[dict[str, str | None]]:
    return [row for batch in injector.batches(batches, Format.ARROW) for row in batch.to_pylist()]


def test_the_account_equals_a_comparison_with_the_clean_rows(
    batches: list[pa.RecordBatch],
):
    injecting = injector(SMALL)
    account = {entry["position"]: entry for entry in account_of(injecting, batches).to_dicts()}
    clean = iter(clean_rows(batches))
    row: dict[str, str | None] = {}
    copied = False
    for position, sent in enumerate(sent_rows(injecting, batches)):
        entry = account.get(position)
        kind = None if entry is None else KINDS[entry["kind"]]
        before = account.get(position - 1)
        repeats = bool(kind and kind.repeats)
        # A copy follows its row. The row itself is in the account only if the copy differs.
        is_copy = repeats and (
            kind is not KINDS["duplicate_id_other"]
            or (before is not None and before["kind"] == kind.name and not copied)
        )
        copied = is_copy
        if not is_copy:
            row = next(clean)
        changed = {name for name, text in sent.items() if text != row.get(name)}
        if entry is None or kind is None:
            assert changed == set()
            continue
        assert entry["transaction_id"] == row["transaction_id"]
        assert entry["field"] == kind.field
        assert entry["before"] == row.get(kind.field)
        unchanged = kind.name in {"wrong_type_number", "duplicate_id_same"} or (
            repeats and not is_copy
        )
        expected = set() if unchanged else {kind.field, *filter(None, [kind.adds])}
        assert changed == expected, kind.name
    assert next(clean, None) is None


def test_a_rate_is_the_share_of_rows_with_a_defect(batches: list[pa.RecordBatch]):
    rows = sum(batch.num_rows for batch in batches)
    account = account_of(injector("amount_zero:0.05,latitude_91:0.1"), batches)
    shares = {kind: count / rows for kind, count in Counter(account["kind"]).items()}
    assert shares == {
        "amount_zero": pytest.approx(0.05, rel=0.1),
        "latitude_91": pytest.approx(0.1, rel=0.1),
    }
    assert account_of(injector("id_empty:1"), batches).height == rows


def test_a_higher_rate_keeps_the_defects_of_a_lower_one(
    batches: list[pa.RecordBatch],
):
    low, high = (account_of(injector(f"all:{rate}"), batches[:1]) for rate in (0.1, 0.3))
    names = ["transaction_id", "kind", "before"]
    assert 0 < low.height < high.height
    assert low.join(high, on=names, how="anti", nulls_equal=True).height == 0


def test_another_seed_selects_other_rows(batches: list[pa.RecordBatch]):
    ours, theirs = (
        set(
            account_of(DefectInjector(Defects.parse("all:0.1"), (), seed, WINDOW), batches)[
                "position"
            ]
        )
        for seed in (0, 1)
    )
    assert len(ours & theirs) < 0.2 * len(ours)


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(Configuration(tps=0.2, customers=500, merchants=100))


@hypothesis.settings(max_examples=30)
@given(offset=st.integers(1, WINDOW.end - WINDOW.start - 1))
def test_two_parts_of_a_window_have_the_defects_of_the_whole(simulator: Simulator, offset: int):
    cut = START + offset
    injecting = injector(SMALL)

    def lines(*parts: Window) -> bytes:
        rows = (batch for part in parts for batch in simulator.batches(part))
        return b"".join(
            wire.encode(injecting.batches(rows, Format.NDJSON), injecting.schema, Format.NDJSON)
        )

    whole = lines(WINDOW)
    parts = [Window(START, cut), Window(cut, WINDOW.end)]
    assert lines(parts[0]) + lines(parts[1]) == whole == lines(*parts)


# Formats.


def test_defects_do_not_depend_on_the_encoding_of_the_rows(batches: list[pa.RecordBatch]):
    defects = f"{SMALL},huge_string:0.0005"
    plain = pa.Table.from_batches(injector(defects).batches(batches, Format.ARROW))
    simulator = Simulator(Configuration(tps=16, customers=500, merchants=100))
    for schema in (DICTIONARY_ENCODED_SCHEMA, COORDINATES_ENCODED_SCHEMA):
        encoded = DefectInjector(Defects.parse(defects), (), 0, WINDOW, schema)
        rows = simulator.batches(WINDOW, schema=schema)
        sent = pa.Table.from_batches(encoded.batches(rows, Format.ARROW), encoded.schema)
        assert sent.schema.names == plain.schema.names
        for name in plain.schema.names:
            assert sent[name].cast(pa.string()).equals(plain[name].cast(pa.string())), name
    assert pa.types.is_dictionary(sent.schema.field("customer_id").type)
    assert pa.types.is_dictionary(sent.schema.field("latitude").type)


def sent_as(injector: DefectInjector, batches: list[pa.RecordBatch], form: Format) -> bytes:
    if form is Format.JSON:
        return b"[" + wire.json_items(injector.batches(batches, form)) + b"]"
    return b"".join(wire.encode(injector.batches(batches, form), injector.schema, form))


def text_of(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return None
    return str(value).replace("\ud83d", "\x1a\\ud83d")


def read(content: bytes, form: Format) -> list[dict[str, str | None]]:
    """Rows as text, with the substitute for half of a surrogate pair outside JSON."""
    match form:
        case Format.JSON:
            rows = json.loads(content, parse_float=str, parse_int=str)
        case Format.NDJSON:
            lines = content.decode().removesuffix("\n").split("\n")
            rows = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
        case Format.CSV:
            text = content.decode()
            header, *lines = list(csv.reader(io.StringIO(text, newline="")))
            rows = [dict(zip(header, line, strict=True)) for line in lines]
        case Format.ARROW:
            rows = pa.ipc.open_stream(content).read_all().to_pylist()
        case Format.PARQUET:
            rows = pq.read_table(io.BytesIO(content)).to_pylist()
    return [{name: text_of(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_carries_the_same_defects(batches: list[pa.RecordBatch], form: Format):
    some = [batch.slice(0, 10_000) for batch in batches[:1]]
    injecting = injector(SMALL)
    names = [*SCHEMA.names, "loyalty_points", "merchantName"]
    expected = sent_rows(injecting, some)
    assert list(expected[0]) == names
    found = read(sent_as(injecting, some, form), form)
    rows = [{name: row.get(name) for name in names} for row in found]
    if form is Format.CSV:
        # This reader does not distinguish null from empty text.
        expected = [{name: text or "" for name, text in row.items()} for row in expected]
    assert rows == expected


def test_csv_distinguishes_null_from_empty_text(batches: list[pa.RecordBatch]):
    lines = sent_as(injector("id_empty:1"), [batches[0].slice(0, 5)], Format.CSV).splitlines()
    assert [line.split(b",")[0] for line in lines[1:]] == [b'""'] * 5
    lines = sent_as(injector("missing_field:1"), [batches[0].slice(0, 5)], Format.CSV).splitlines()
    assert [line.split(b",")[2] for line in lines[1:]] == [b""] * 5


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [
        ("missing_field", b'"transaction_at":', b'"customer_id":'),
        ("null_field", b'"transaction_type":null,', b'"transaction_type":"'),
        ("extra_field", b',"loyalty_points":"250"}', b"merchantName"),
        ("renamed_field", b',"merchantName":"', b'"merchant_name":'),
        ("wrong_type_boolean", b'"is_fraud":0,', b'"is_fraud":false'),
        ("amount_nan", b'"amount":"NaN"', b'"amount":N'),
        ("control_character", b'"merchant_name":"Bell \\u0007 Co"', b"\x07"),
        ("lone_surrogate", b'"merchant_name":"Half \\ud83d Moon"', b"\\u001a"),
        ("right_to_left_mark", "Right \u200f Left".encode(), b"\\u200f"),
    ],
)
def test_json_has_the_defect_as_it_is_named(
    batches: list[pa.RecordBatch], kind: str, there: bytes, absent: bytes
):
    content = sent_as(injector(f"{kind}:1"), [batches[0].slice(0, 20)], Format.NDJSON)
    for line in content.splitlines():
        assert there in line
        assert absent not in line


@pytest.mark.parametrize(
    ("kind", "field"), [("wrong_type_number", "amount"), ("time_epoch", "transaction_at")]
)
def test_a_wrong_type_is_a_number_in_json(batches: list[pa.RecordBatch], kind: str, field: str):
    content = sent_as(injector(f"{kind}:1"), [batches[0].slice(0, 20)], Format.JSON)
    assert {type(row[field]) for row in json.loads(content)} <= {int, float}


@pytest.mark.parametrize("form", [Format.NDJSON, Format.CSV])
def test_clean_rows_are_byte_identical_to_those_of_a_clean_run(
    batches: list[pa.RecordBatch], form: Format
):
    injecting = injector(SMALL)
    named = set(account_of(injecting, batches)["position"])
    schema = wire.text_schema(SCHEMA)
    clean = b"".join(wire.encode(wire.text_batches(batches), schema, form)).split(b"\n")
    sent = sent_as(injecting, batches, form).split(b"\n")
    if form is Format.CSV:
        # Two more columns, which are empty.
        sent = [line.removesuffix(b",,") for line in sent[1:]]
    kept = [line for position, line in enumerate(sent) if position not in named]
    assert len(kept) > 20_000
    remaining = iter(clean)
    assert all(line in remaining for line in kept)


def test_huge_strings_are_sent_a_few_at_a_time(batches: list[pa.RecordBatch]):
    injecting = injector("huge_string:1")
    some = [batches[0].slice(0, 70)]
    sizes = [
        len(chunk)
        for chunk in wire.encode(
            injecting.batches(some, Format.NDJSON), injecting.schema, Format.NDJSON
        )
    ]
    assert sum(sizes) > 70_000_000
    assert max(sizes) < 40_000_000


# Rates.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("all:0", {}),
        ("amount_scale:0.01,id_empty:.5", {"amount_scale": 0.01, "id_empty": 0.5}),
        (" amount_scale : 1 ", {"amount_scale": 1.0}),
        ("duplicate_id:0.01", {"duplicate_id_same": 0.005, "duplicate_id_other": 0.005}),
        ("id:0.01,id_empty:0.01", {"id_malformed": 0.005, "id_empty": 0.015}),
        ("all:1", dict.fromkeys(KINDS, pytest.approx(1 / len(KINDS)))),
    ],
)
def test_rates_are_read_by_kind_family_or_all(text: str, expected: dict[str, float]):
    assert dict(Defects.parse(text).rates) == expected


BAD_DEFECTS = [
    ("amount_scal:0.1", "amount_scale instead of 'amount_scal'"),
    ("nothing_like_it:0.1", "one of missing_field, null_field"),
    ("all", "from 0 to 1, as in all:0.01"),
    ("all:", "from 0 to 1, as in all:0.01"),
    ("all:x", "from 0 to 1"),
    ("all:-0.1", "from 0 to 1"),
    ("all:nan", "from 0 to 1"),
    ("id_empty:1.1", "id_empty with the share of rows that get it, from 0 to 1"),
    ("id_empty:0.7,amount:0.7", "add up to 1 at most, not to 1.4"),
    (":0.1", "instead of ''"),
]


@pytest.mark.parametrize(("given_defects", "says"), BAD_DEFECTS)
@pytest.mark.parametrize("path", [PATH, "/v1/control-totals", "/v1/defects"])
def test_bad_defects_are_refused_with_what_to_send_instead(
    service: Service, path: str, given_defects: str, says: str
):
    body = problem(service.get(path, **HOUR, defects=given_defects), 422)
    assert [error["field"] for error in body["errors"]] == ["defects"]
    assert says in body["detail"]


@pytest.mark.parametrize(("given_defects", "says"), BAD_DEFECTS)
def test_bad_defects_are_refused_as_a_setting(
    monkeypatch: pytest.MonkeyPatch, given_defects: str, says: str
):
    monkeypatch.setenv("GENERATOR_DEFECTS", given_defects)
    with pytest.raises(SettingsError, match=r"^GENERATOR_DEFECTS=") as refusal:
        Settings.load()
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


# The service.


@pytest.mark.parametrize("form", FORMATS)
def test_the_service_sends_what_the_account_says(service: Service, form: Format):
    asked = HOUR | {"defects": SMALL, "limit": 50_000}
    response = service.get(PATH, **asked, format=form.value)
    account = service.get("/v1/defects", **asked, format=form.value)
    assert response.status_code == account.status_code == 200
    if form is Format.JSON:
        rows, entries = response.json()["data"], account.json()["data"]
        for entry in entries:
            Defect.model_validate(entry, strict=True)
    else:
        rows, entries = read(response.content, form), read(account.content, form)
    assert len(rows) == int(response.headers["X-Total-Rows"]) > 3_600
    assert len(entries) == int(account.headers["X-Total-Rows"])
    assert {entry["kind"] for entry in entries} == set(KINDS) - {"huge_string"}
    for entry in entries:
        sent = rows[int(entry["position"])]
        if entry["field"] != "transaction_id":
            assert sent["transaction_id"] == entry["transaction_id"]


@pytest.mark.parametrize("seen", [{}, {"as_of": HOUR["end"]}])
def test_the_service_states_the_totals_of_what_it_sends(service: Service, seen: dict[str, str]):
    asked = HOUR | seen | {"defects": ALL}
    response = service.get(PATH, **asked, format="arrow")
    table = pl.DataFrame(pa.ipc.open_stream(response.content).read_all())
    computed = ControlTotals.of(table.with_columns(pl.all().cast(pl.String)))
    stated = service.get("/v1/control-totals", **asked)
    assert ControlTotals.parse(stated.content).differences(computed) == []
    assert "X-Total-Rows" not in response.headers
    counted = service.get(PATH, **asked, limit=50_000)
    assert int(counted.headers["X-Total-Rows"]) == computed.rows


def test_totals_of_pages_that_were_sent_are_those_of_their_rows(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    asked = HOUR | {"defects": "amount_negative:0.1,amount_nan:0.1"}
    rows = [row for page in service.pages(**asked, limit=1_000) for row in page]
    computed = ControlTotals.of(
        pl.DataFrame(rows, schema=dict.fromkeys(SCHEMA.names, pl.String), strict=False)
    )
    monkeypatch.setattr(Simulator, "_arrived_blocks", None)
    stated = service.get("/v1/control-totals", **asked)
    assert ControlTotals.parse(stated.content).differences(computed) == []


def test_pages_put_together_are_the_whole(service: Service):
    asked = HOUR | {"defects": SMALL}
    pages = service.pages(**asked, limit=777)
    lines = service.get(PATH, **asked, format="ndjson").content.decode().splitlines()
    assert [row for page in pages for row in page] == [json.loads(line) for line in lines]
    # A page has so many rows, and their copies.
    assert all(777 <= len(page) < 900 for page in pages[:-1])
    whole = service.get("/v1/defects", **asked, limit=50_000).json()["data"]
    assert [
        entry for page in service.pages("/v1/defects", **asked, limit=777) for entry in page
    ] == whole


def test_a_cursor_is_of_the_defects_it_was_given_for(service: Service):
    following = service.get(PATH, **HOUR, defects=SMALL, limit=5).json()["next"]
    cursor = following.partition("cursor=")[2]
    assert "this defects" in problem(service.get(PATH, **HOUR, cursor=cursor), 400)["detail"]


def test_a_service_can_inject_defects_by_default(service: Service):
    with serve(create_app(settings(defects=SMALL), now=lambda: NOW)) as injecting:
        for path in (PATH, "/v1/control-totals", "/v1/defects"):
            expected = service.get(path, **HOUR, defects=SMALL).json()
            assert injecting.get(path, **HOUR).json() | {"next": 0} == expected | {"next": 0}
            clean = service.get(path, **HOUR).json()
            assert injecting.get(path, **HOUR, defects="").json() | {"next": 0} == clean | {
                "next": 0
            }
        sample = injecting.get("/v1/transactions/sample", count=1_000)
        assert sample.content == service.get("/v1/transactions/sample", count=1_000).content


def test_without_defects_the_account_is_empty(service: Service):
    response = service.get("/v1/defects", **HOUR)
    assert response.json()["data"] == []
    assert response.headers["X-Total-Rows"] == "0"


def test_openapi_lists_every_kind(service: Service):
    operation = service.get("/openapi.json").json()["paths"]["/v1/defects"]["get"]
    for kind in KINDS.values():
        assert f"| `{kind.name}` | `{kind.field}` |" in operation["description"]


@pytest.mark.parametrize("form", [form for form in Format if form is not Format.JSON])
def test_an_export_has_the_defects_of_the_service(service: Service, form: Format):
    given_settings = settings(defects=SMALL)
    simulator = Simulator(given_settings.configuration())
    sink = io.BytesIO()
    rows = export(simulator, WINDOW, form, sink, injector=given_settings.injector(WINDOW))
    response = service.get(PATH, **HOUR, defects=SMALL, format=form.value)
    assert sink.getvalue() == response.content
    assert rows == len(read(response.content, form))


# Drift.

HALF_PAST_MOMENT = parse_moment("2026-11-01T00:30:00Z")
HALF_PAST = "2026-11-01T00:30:00Z"


def halves(drift: str, form: Format, few: list[pa.RecordBatch]) -> list[list[dict[str, Any]]]:
    """The rows before half past, and from then on."""
    content = sent_as(injector(drift=drift), few, form)
    rows = json.loads(content) if form is Format.JSON else read(content, form)
    before = next(
        index for index, row in enumerate(rows) if row["transaction_at"] >= HALF_PAST[:-1]
    )
    assert 0 < before < len(rows)
    return [rows[:before], rows[before:]]


def test_a_column_is_renamed_from_a_moment_on(few: list[pa.RecordBatch]):
    drift = f"rename:amount:value:{HALF_PAST}"
    before, after = halves(drift, Format.JSON, few)
    assert {tuple(row) for row in before} == {tuple(SCHEMA.names)}
    renamed = tuple("value" if name == "amount" else name for name in SCHEMA.names)
    assert {tuple(row) for row in after} == {renamed}
    clean = clean_rows(few)
    assert [row["amount"] for row in before] + [row["value"] for row in after] == [
        row["amount"] for row in clean
    ]
    for form in (Format.ARROW, Format.PARQUET):
        before, after = halves(drift, form, few)
        assert {row["value"] for row in before} == {row["amount"] for row in after} == {None}


def test_a_column_is_added_from_a_moment_on(few: list[pa.RecordBatch]):
    before, after = halves(f"add:note:{HALF_PAST}", Format.JSON, few)
    assert not any("note" in row for row in before)
    assert all(row["note"] == "new" for row in after)


def test_a_column_is_dropped_from_a_moment_on(few: list[pa.RecordBatch]):
    before, after = halves(f"drop:transaction_type:{HALF_PAST}", Format.JSON, few)
    assert all("transaction_type" in row for row in before)
    assert not any("transaction_type" in row for row in after)


@pytest.mark.parametrize(
    ("column", "old", "new"),
    [
        ("amount", str, float),
        ("card_number", str, int),
        ("latitude", float, str),
        ("is_fraud", bool, str),
    ],
)
def test_a_column_is_retyped_from_a_moment_on(
    few: list[pa.RecordBatch], column: str, old: type, new: type
):
    drift = f"retype:{column}:{HALF_PAST}"
    before, after = halves(drift, Format.JSON, few)
    assert {type(row[column]) for row in before} == {old}
    assert {type(row[column]) for row in after} == {new}
    # Only JSON has types; the other formats have text as before.
    assert sent_rows(injector(drift=drift), few) == clean_rows(few)


def test_a_corrupted_value_that_is_no_number_stays_a_string_in_a_retyped_column(
    few: list[pa.RecordBatch],
):
    content = sent_as(injector("amount:1", f"retype:amount:{HOUR['start']}"), few, Format.JSON)
    kinds = {type(row["amount"]) for row in json.loads(content)}
    assert kinds == {str, float}


def test_a_window_after_a_drift_has_the_new_columns_only():
    drift = f"rename:amount:value:{HOUR['start']},drop:channel:{HOUR['start']}"
    later = f"add:note:{HOUR['end']}"
    names = ["value" if name == "amount" else name for name in SCHEMA.names if name != "channel"]
    assert injector(drift=f"{drift},{later}").schema.names == names


def test_drifts_reach_totals_samples_and_single_rows():
    drift = f"rename:amount:value:{HALF_PAST}"
    with serve(create_app(settings(drift=drift), now=lambda: NOW)) as service:
        table = pl.DataFrame(
            pa.ipc.open_stream(service.get(PATH, **HOUR, format="arrow").content).read_all()
        ).with_columns(pl.all().cast(pl.String))
        stated = ControlTotals.parse(service.get("/v1/control-totals", **HOUR).content)
        assert stated.differences(ControlTotals.of(table)) == []
        [newest] = service.rows("/v1/transactions/sample", count=1)
        assert "value" in newest
        one = service.get(f"/v1/transactions/{newest['transaction_id']}").json()["data"]
        assert one == newest


def test_openapi_says_what_has_drifted_and_since_when():
    since = "2026-11-01T00:30:00.000000Z"
    drift = ",".join(
        (
            f"rename:amount:value:{HALF_PAST}",
            f"add:note:{HALF_PAST}",
            f"drop:channel:{HALF_PAST}",
            f"retype:latitude:{HALF_PAST}",
            f"retype:card_number:{HALF_PAST}",
        )
    )

    def schema(moment: int) -> dict[str, Any]:
        with serve(create_app(settings(drift=drift), now=lambda: moment)) as service:
            return service.get("/openapi.json").json()["components"]["schemas"]["Transaction"]

    before, after = schema(HALF_PAST_MOMENT - 1), schema(HALF_PAST_MOMENT)
    assert list(before["properties"]) == SCHEMA.names
    assert "x-since" not in json.dumps(before)
    assert set(after["properties"]) == {*SCHEMA.names, "value", "note"} - {"amount", "channel"}
    assert set(after["required"]) == set(after["properties"])
    assert after["x-dropped"] == {"amount": since, "channel": since}
    changed = {name: kind for name, kind in after["properties"].items() if "x-since" in kind}
    assert {name: (kind["type"], kind["x-since"]) for name, kind in changed.items()} == {
        "value": ("string", since),
        "note": ("string", since),
        "latitude": ("string", since),
        "card_number": ("number", since),
    }


@pytest.mark.parametrize(
    ("drift", "says"),
    [
        ("move:amount:2026-11-02T00:00:00Z", "one of rename, add, drop, retype instead of 'move'"),
        ("drop:amount", "drop:COLUMN:FROM instead of 'drop:amount'"),
        ("rename:amount:value", "rename:COLUMN:NAME:FROM instead of 'rename:amount:value'"),
        ("drop:amont:2026-11-02T00:00:00Z", "amount instead of 'amont'"),
        ("rename:amount:currency:2026-11-02T00:00:00Z", "no other column's instead of 'currency'"),
        ("add:merchantName:2026-11-02T00:00:00Z", "no other column's instead of 'merchantName'"),
        ("add:a b:2026-11-02T00:00:00Z", "no other column's instead of 'a b'"),
        ("retype:merchant_id:2026-11-02T00:00:00Z", "instead of 'merchant_id'"),
        ("drop:amount:2026-11-02T00:00:00", "a time with its zone"),
        (
            "drop:amount:2026-11-02T00:00:00Z,retype:amount:2026-11-03T00:00:00Z",
            "one change of amount only",
        ),
    ],
)
def test_a_bad_drift_is_refused_with_what_to_write_instead(drift: str, says: str):
    with pytest.raises(SettingsError, match=r"^GENERATOR_DRIFT=") as refusal:
        Settings.load(drift=drift)
    assert says in str(refusal.value)


def test_drifts_are_read_with_their_moments():
    assert parse_drifts(f"rename:amount:value:{HALF_PAST}, drop:channel:{HALF_PAST}") == (
        Drift("rename", "amount", HALF_PAST_MOMENT, "value"),
        Drift("drop", "channel", HALF_PAST_MOMENT, "channel"),
    )
