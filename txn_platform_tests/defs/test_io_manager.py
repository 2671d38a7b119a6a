"""Users' own assets: partitions of any definition, frames of any kind, several at once."""

import decimal
import sys
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.defs.frames import is_of_pandas
from txn_platform.defs.layout import partition_key_of_object, safe_segment
from txn_platform.defs.partitions import HOURS
from txn_platform.lake.directory import DirectoryLake
from txn_platform.lake.layout import object_key
from txn_platform.windows import Window
from txn_platform_tests.support.run_resources import lake_resources

_LAKE = Path(".txn/lake")
_HOURLY = dg.AssetSpec(
    "s3_parquet_transactions",
    partitions_def=HOURS,
    metadata={"dagster/io_manager_key": "lake"},
)
_STRANGE = [
    "eu",
    "a/b",
    "../up",
    ".hidden",
    "_hidden",
    "..",
    ".",
    "a=b",
    "50%",
    "50%25",
    "two words",
    " ",
    "Köln",
    "Ko\u0308ln",
    "日本",
    "[a]*?",
    "#x",
    "part-0.parquet",
    "x" * 300,
    "x" * 301,
    "ü" * 100,
    "~",
    "a\\b",
    "a:b",
    "a&b+c",
    "{id}",
    "trailing.",
]


def _materialize(
    *assets: Any, partition: str | None = None, tags: dict[str, str] | None = None, **options: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*assets, _HOURLY],
        partition_key=partition,
        tags=tags,
        resources=lake_resources(),
        raise_on_error=False,
        **options,
    )


def _messages(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Why steps failed, each in its one message for a person."""
    assert not result.success
    found: dict[str, str] = {}
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            assert data.user_failure_data is not None, data.error
            found[event.step_key or ""] = data.user_failure_data.description or ""
    return found


def _message(result: dg.ExecuteInProcessResult) -> str:
    (message,) = _messages(result).values()
    return message


def _stores(returned: dict[str, Any]) -> dg.ExecuteInProcessResult:
    """A run of assets without partitions, each of which returns what is given."""

    def asset(name: str, table: Any) -> dg.AssetsDefinition:
        return dg.asset(name=name, io_manager_key="lake")(lambda: table)

    return _materialize(*(asset(name, table) for name, table in returned.items()))


def _span(first: str, last: str) -> dict[str, str]:
    """The tags of one run over several partitions, as a backfill sets them."""
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }


def _hour(day: int, hour: int) -> Path:
    start = datetime(2026, 11, day, hour, tzinfo=UTC)
    return _LAKE / object_key("s3_parquet_transactions", Window(start))


def _put_hours(*hours: int) -> None:
    for hour in hours:
        path = _hour(1, hour)
        path.parent.mkdir(parents=True)
        pl.DataFrame({"hour": [hour]}).write_parquet(path)


@pytest.mark.parametrize(
    ("definition", "partition", "folder"),
    [
        (HOURS, "2026-11-01-14:00", "event_date=2026-11-01/event_hour=14"),
        (
            dg.HourlyPartitionsDefinition("2026-01-01-00:00", timezone="Europe/Berlin"),
            "2026-11-01-14:00",
            "event_date=2026-11-01/event_hour=13",
        ),
        (
            dg.HourlyPartitionsDefinition("2026-01-01-00:00", minute_offset=15),
            "2026-11-01-14:15",
            "event_start=20261101T141500Z",
        ),
        (dg.DailyPartitionsDefinition("2026-01-01"), "2026-11-01", "event_date=2026-11-01"),
        (
            dg.DailyPartitionsDefinition("2026-01-01", timezone="Asia/Tokyo"),
            "2026-11-01",
            "event_date=2026-11-01",
        ),
        (dg.WeeklyPartitionsDefinition("2026-01-01"), "2026-11-01", "event_week=2026-11-01"),
        (dg.MonthlyPartitionsDefinition("2026-01-01"), "2026-10-01", "event_month=2026-10"),
        (
            dg.TimeWindowPartitionsDefinition(
                start="2026-01-01-00:00", fmt="%Y-%m-%d-%H:%M", cron_schedule="*/15 * * * *"
            ),
            "2026-11-01-14:45",
            "event_start=20261101T144500Z",
        ),
        (dg.StaticPartitionsDefinition(["eu", "us"]), "eu", "eu"),
        (
            dg.MultiPartitionsDefinition(
                {
                    "region": dg.StaticPartitionsDefinition(["e/u"]),
                    "day": dg.DailyPartitionsDefinition("2026-01-01"),
                }
            ),
            "2026-11-01|e/u",
            "event_date=2026-11-01/e%2Fu",
        ),
    ],
)
def test_a_partition_of_any_definition_is_kept_and_read_back(
    definition: dg.PartitionsDefinition, partition: str, folder: str
) -> None:
    read: list[pl.DataFrame] = []

    @dg.asset(partitions_def=definition, io_manager_key="lake")
    def kept(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame({"partition": [context.partition_key]})

    @dg.asset(partitions_def=definition)
    def reader(kept: pl.LazyFrame) -> None:
        read.append(kept.collect())

    assert _materialize(kept, reader, partition=partition).success
    assert [frame.rows() for frame in read] == [[(partition,)]]
    assert [path.relative_to(_LAKE) for path in _LAKE.rglob("*.parquet")] == [
        Path("kept", folder, "part-0.parquet")
    ]


def test_partitions_of_strange_names_do_not_meet() -> None:
    names = dg.StaticPartitionsDefinition(_STRANGE)
    read: dict[str, str] = {}

    @dg.asset(
        partitions_def=names, io_manager_key="lake", backfill_policy=dg.BackfillPolicy.single_run()
    )
    def kept(context: dg.AssetExecutionContext) -> dict[str, pl.DataFrame]:
        return {key: pl.DataFrame({"partition": [key]}) for key in context.partition_keys}

    @dg.asset
    def all_of_them(kept: dict[str, pl.DataFrame]) -> None:
        read.update({key: frame.item() for key, frame in kept.items()})

    assert _materialize(kept, tags=_span(_STRANGE[0], _STRANGE[-1])).success
    assert _materialize(kept, all_of_them, selection=["all_of_them"]).success
    assert read == {name: name for name in _STRANGE}
    # Nothing is beside the asset's folder, and nothing in it is hidden.
    assert {path.name for path in _LAKE.iterdir()} == {".staging", "kept"}
    assert len(list((_LAKE / "kept").glob("[!._]*"))) == len(_STRANGE)


def test_dynamic_partitions_are_kept_and_read_back() -> None:
    names = dg.DynamicPartitionsDefinition(name="names")

    @dg.asset(partitions_def=names, io_manager_key="lake")
    def kept(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame({"partition": [context.partition_key]})

    @dg.asset(partitions_def=names, io_manager_key="lake")
    def again(kept: pa.Table) -> pa.Table:
        return kept

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("names", ["a/b"])
        assert _materialize(kept, again, partition="a/b", instance=instance).success
    assert pl.read_parquet(_LAKE / "again/a%2Fb/part-0.parquet").item() == "a/b"


_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=90)


@given(_NAMES, _NAMES)
def test_names_have_folders_of_their_own(name: str, another: str) -> None:
    one, other = safe_segment(name), safe_segment(another)
    assert (one == other) == (name == another)
    for segment in (one, other):
        assert 0 < len(segment) <= 200
        assert segment.isascii()
        assert segment.isprintable()
        assert not set(segment) & set('/\\*?[]{}:"<>|#=&')
        assert not segment.startswith((".", "_", " "))
        assert not segment.endswith((".", " "))
        assert segment != "part-0.parquet"


def test_hours_are_where_they_always_were() -> None:
    window = Window(datetime(2026, 11, 1, 14, tzinfo=UTC))
    asked = partition_key_of_object(["raw_transactions"], HOURS, window.partition_key)
    assert asked == object_key("raw_transactions", window)
    assert partition_key_of_object(["a", "b"], None, None) == object_key("a/b", None)


def test_a_day_gets_its_hours_and_stores_its_own_rows() -> None:
    _put_hours(*range(24))

    @dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"), io_manager_key="lake")
    def spend(s3_parquet_transactions: pl.LazyFrame) -> pl.LazyFrame:
        return s3_parquet_transactions.select(pl.col("hour").sum())

    assert _materialize(spend, partition="2026-11-01", selection=["spend"]).success
    stored = _LAKE / "spend/event_date=2026-11-01/part-0.parquet"
    assert pl.read_parquet(stored).item() == sum(range(24))


@pytest.mark.parametrize("kind", [pl.LazyFrame, pd.DataFrame])
def test_missing_windows_are_named_and_can_be_left_out(kind: Any) -> None:
    _put_hours(*range(3, 24))
    seen: list[Any] = []

    def rows_of_day(s3_parquet_transactions: Any) -> None:
        seen.append(s3_parquet_transactions)

    rows_of_day.__annotations__ = {"s3_parquet_transactions": kind, "return": None}
    day = dg.DailyPartitionsDefinition("2026-01-01")
    strict = dg.asset(partitions_def=day)(rows_of_day)
    message = _message(_materialize(strict, partition="2026-11-01", selection=["rows_of_day"]))
    assert "lacks 3 of its 24 partitions of s3_parquet_transactions" in message
    assert "2026-11-01-00:00, 2026-11-01-01:00, 2026-11-01-02:00" in message
    assert "allow_missing_partitions" in message
    assert not seen
    lenient = dg.asset(
        partitions_def=day,
        ins={"s3_parquet_transactions": dg.AssetIn(metadata={"allow_missing_partitions": True})},
    )(rows_of_day)
    assert _materialize(lenient, partition="2026-11-01", selection=["rows_of_day"]).success
    (frame,) = seen
    assert isinstance(frame, kind)
    rows = frame.collect() if isinstance(frame, pl.LazyFrame) else frame
    assert sorted(np.asarray(rows["hour"])) == list(range(3, 24))


def test_an_asset_over_all_hours_names_a_few_of_many() -> None:
    _put_hours(0, 5)

    def everything(s3_parquet_transactions: pl.DataFrame) -> None:
        seen.append(s3_parquet_transactions)

    seen: list[pl.DataFrame] = []
    message = _message(_materialize(dg.asset(everything), selection=["everything"]))
    assert "2026-01-01-00:00, 2026-01-01-01:00" in message
    assert " more, the last " in message
    assert len(message) < 600
    lenient = dg.asset(
        ins={"s3_parquet_transactions": dg.AssetIn(metadata={"allow_missing_partitions": True})}
    )(everything)
    assert _materialize(lenient, selection=["everything"]).success
    assert [sorted(frame["hour"]) for frame in seen] == [[0, 5]]


def test_an_input_of_which_nothing_exists_is_an_error_unless_it_may_be_none() -> None:
    day = dg.DailyPartitionsDefinition("2026-01-01")
    metadata = {"s3_parquet_transactions": dg.AssetIn(metadata={"allow_missing_partitions": True})}
    seen: list[Any] = []

    @dg.asset(partitions_def=day, ins=metadata)
    def frame(s3_parquet_transactions: pl.LazyFrame) -> None:
        seen.append(s3_parquet_transactions)

    @dg.asset(partitions_def=day, ins=metadata)
    def perhaps(s3_parquet_transactions: pl.LazyFrame | None) -> None:
        seen.append(s3_parquet_transactions)

    @dg.asset(partitions_def=day, ins=metadata)
    def apart(s3_parquet_transactions: dict[str, pl.LazyFrame]) -> None:
        seen.append(s3_parquet_transactions)

    failed = _materialize(frame, partition="2026-11-01", selection=["frame"])
    assert "has none of its 24 partitions" in _message(failed)
    for asset, name in ((perhaps, "perhaps"), (apart, "apart")):
        assert _materialize(asset, partition="2026-11-01", selection=[name]).success
    assert seen == [None, {}]


def test_a_run_over_several_partitions_stores_a_table_each_or_says_how() -> None:
    day = dg.DailyPartitionsDefinition("2026-01-01")
    policy = dg.BackfillPolicy.single_run()
    span = _span("2026-11-01", "2026-11-03")

    @dg.asset(partitions_def=day, io_manager_key="lake", backfill_policy=policy)
    def kept(context: dg.AssetExecutionContext) -> dict[str, pl.DataFrame]:
        return {key: pl.DataFrame({"day": [key]}) for key in context.partition_keys}

    @dg.asset(partitions_def=day, io_manager_key="lake", backfill_policy=policy)
    def as_one() -> pl.DataFrame:
        return pl.DataFrame({"day": [0]})

    @dg.asset(partitions_def=day, io_manager_key="lake", backfill_policy=policy)
    def too_few() -> dict[str, pl.DataFrame]:
        return {"2026-11-01": pl.DataFrame({"day": [0]})}

    assert _materialize(kept, tags=span).success
    for number in (1, 2, 3):
        stored = _LAKE / f"kept/event_date=2026-11-0{number}/part-0.parquet"
        assert pl.read_parquet(stored).item() == f"2026-11-0{number}"
    message = _message(_materialize(as_one, tags=span))
    assert "run for 3 partitions at once (2026-11-01 to 2026-11-03)" in message
    assert "return a dict" in message
    assert "2026-11-02 differs" in _message(_materialize(too_few, tags=span))
    assert not (_LAKE / "as_one").exists()
    assert not (_LAKE / "too_few").exists()


_INDEXES = {
    "named": pd.Index(["x", "y"], name="merchant_id"),
    "named numbers": pd.RangeIndex(2, name="merchant_id"),
    "two named": pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["merchant_id", "n"]),
    "dates": pd.DatetimeIndex(["2026-11-01", "2026-11-02"], name="day"),
    "without a name": pd.Index(["x", "y"]),
    "rows' numbers": pd.RangeIndex(2),
}


def test_an_index_of_pandas_becomes_columns() -> None:
    frames = {
        f"kept_{number}": pd.DataFrame({"amount": [1, 2]}, index=index)
        for number, index in enumerate(_INDEXES.values())
    }
    assert _stores(frames).success
    stored = {
        kind: pd.read_parquet(_LAKE / f"kept_{number}/part-0.parquet").to_dict("list")
        for number, kind in enumerate(_INDEXES)
    }
    amount = {"amount": [1, 2]}
    assert stored == {
        "named": {**amount, "merchant_id": ["x", "y"]},
        "named numbers": {**amount, "merchant_id": [0, 1]},
        "two named": {**amount, "merchant_id": ["x", "y"], "n": [1, 2]},
        "dates": {**amount, "day": list(pd.to_datetime(["2026-11-01", "2026-11-02"]))},
        "without a name": {**amount, "__index_level_0__": ["x", "y"]},
        "rows' numbers": amount,
    }


_ROUND = {
    "text": pl.Series(["a", None, ""]),
    "categorical": pl.Series(["b", "a", None], dtype=pl.Categorical),
    "enum": pl.Series(["b", "a", None], dtype=pl.Enum(["z", "b", "a"])),
    "enum in a list": pl.Series([["a"], [], None], dtype=pl.List(pl.Enum(["z", "a"]))),
    "categorical in a struct": pl.Series([{"a": "x"}], dtype=pl.Struct({"a": pl.Categorical})),
    "decimal": pl.Series([decimal.Decimal("1.23450")], dtype=pl.Decimal(38, 5)),
    "time": pl.Series([time(1, 2, 3, 4), None]),
    "time without a zone": pl.Series([datetime(2026, 1, 1)]),  # noqa: DTZ001
    "time of a zone": pl.Series(
        [datetime(2026, 1, 1, tzinfo=UTC)], dtype=pl.Datetime("ns", "Europe/Berlin")
    ),
    "duration": pl.Series([timedelta(days=1), None], dtype=pl.Duration("ms")),
    "date": pl.Series([date(1, 1, 1), date(9999, 12, 31)]),
    "null": pl.Series([None, None], dtype=pl.Null),
    "numbers": pl.Series([2**64 - 1], dtype=pl.UInt64),
    "floats": pl.Series([float("nan"), float("inf"), None]),
    "bytes": pl.Series([b"\x00\xff"]),
    "array": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int64, 2)),
    "nested": pl.Series([{"a": [{"b": date(2026, 1, 1)}]}]),
}


def test_columns_come_back_as_they_were() -> None:
    columns = [column.alias(f"a.b/c {kind}") for kind, column in _ROUND.items()]
    whole = pl.DataFrame([column.extend_constant(None, 3 - len(column)) for column in columns])
    assert _stores({"whole": whole, "empty": whole.clear()}).success
    lake = DirectoryLake(_LAKE.absolute())
    for name, frame in {"whole": whole, "empty": whole.clear()}.items():
        back = lake.scan([f"{name}/part-0.parquet"]).collect()
        assert back.schema == frame.schema
        assert back.equals(frame)


_REFUSED = {
    "no table": ({"a": [1]}, "not dict"),
    "two columns of a name": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' is there more"),
    "the same of Arrow": (
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
        "'a' is there more",
    ),
    "an index named like a column": (
        pd.DataFrame({"m": [1]}, index=pd.Index(["x"], name="m")),
        "'m' is there more",
    ),
    "names that are numbers": (pd.DataFrame([[1, 2]]), "names are text, not 0"),
    "names of two levels": (
        pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
        "names are text, not ('a', 'b')",
    ),
    "an index named by a number": (
        pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name=3)),
        "names are text, not 3",
    ),
    "values of several types": (
        pd.DataFrame({"secret": [1, "4111111111111111"]}),
        "column secret with type object",
    ),
    "Python objects": (pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)}), "type Object"),
    "Python objects of pandas": (pd.DataFrame({"a": [object()]}), "column a with type object"),
    "numbers too large": (pl.DataFrame({"a": pl.Series([1], dtype=pl.Int128)}), "type Int128"),
    "numbers too large within": (
        pl.DataFrame({"a": pl.Series([[1]], dtype=pl.List(pl.Int128))}),
        "type List(Int128)",
    ),
    "structs of nothing": (pa.table({"a": pa.array([{}], pa.struct([]))}), "no child field"),
    "lists of no width": (
        pl.DataFrame({"a": pl.Series([[]], dtype=pl.Array(pl.Int64, 0))}),
        "cast it",
    ),
    "what polars can't read": (pa.table({"a": pa.array([[1]], pa.list_view(pa.int8()))}), "cast"),
    "no columns": (pl.DataFrame(), "has none"),
    "names that end early": (pl.DataFrame({"a\0b": [1]}), "'a\\x00b'"),
    "names that end early in pandas": (pd.DataFrame({"a\0b": [1]}), "'a\\x00b'"),
    "fields whose names end early": (pl.DataFrame({"a": [{"b\0c": 1}]}), "'b\\x00c'"),
    "integers without a type": (pd.DataFrame({"a": [10**30]}), "too large"),
    "intervals": (pd.DataFrame({"a": pd.interval_range(0, 2)}), "cast it"),
    "complex numbers": (pd.DataFrame({"a": [1j]}), "column a with type complex128"),
}


def test_a_table_that_cannot_be_kept_is_refused_in_one_sentence() -> None:
    result = _stores(
        {f"kept_{number}": table for number, (table, _) in enumerate(_REFUSED.values())}
    )
    messages = _messages(result)
    assert len(messages) == len(_REFUSED)
    for number, (_, phrase) in enumerate(_REFUSED.values()):
        message = messages[f"kept_{number}"]
        assert phrase in message
        assert "4111111111111111" not in message
        assert "\n" not in message
    assert not list(_LAKE.rglob("?*.parquet"))
    assert not list(_LAKE.rglob("?*.staging"))


def test_types_that_parquet_has_no_equal_of_keep_their_values() -> None:
    table = pa.table(
        {
            "seconds": pa.array([1, None], pa.timestamp("s", "UTC")),
            "day": pa.array([date(2026, 1, 1), None], pa.date64()),
            "coded": pa.array([7, None]).dictionary_encode(),
        }
    )
    assert _stores({"kept": table}).success
    assert pl.read_parquet(_LAKE / "kept/part-0.parquet").to_dict(as_series=False) == {
        "seconds": [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), None],
        "day": [date(2026, 1, 1), None],
        "coded": [7, None],
    }


def test_partitions_of_different_columns_are_not_mixed() -> None:
    names = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(partitions_def=names, io_manager_key="lake")
    def kept(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame({context.partition_key: [1]})

    @dg.asset
    def table(kept: pa.Table) -> None: ...

    @dg.asset
    def frame(kept: pl.DataFrame) -> None: ...

    for name in ("a", "b"):
        assert _materialize(kept, partition=name).success
    message = _message(_materialize(kept, table, selection=["table"]))
    assert "partitions of different columns" in message
    assert "dict[str, Table]" in message
    assert "dict[str, DataFrame]" in _message(_materialize(kept, frame, selection=["frame"]))


def test_an_annotation_that_the_lake_does_not_give_is_named() -> None:
    @dg.asset(io_manager_key="lake")
    def kept() -> pl.DataFrame:
        return pl.DataFrame({"a": [1]})

    @dg.asset
    def number(kept: int) -> None: ...

    assert "is annotated as <class 'int'>" in _message(_materialize(kept, number))


def test_the_result_of_an_op_is_no_asset_to_keep() -> None:
    @dg.op(out=dg.Out(io_manager_key="lake"))
    def result():
        return pl.DataFrame({"a": [1]})

    @dg.job(resource_defs=lake_resources())
    def job() -> None:
        result()

    assert "the lake keeps assets" in _message(job.execute_in_process(raise_on_error=False))


def test_a_class_is_of_pandas_only_once_pandas_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_of_pandas(pd.DataFrame)
    assert not is_of_pandas(pl.DataFrame)
    monkeypatch.delitem(sys.modules, "pandas")
    assert not is_of_pandas(pl.DataFrame)
