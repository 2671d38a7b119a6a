"""The programs that can read the lake, each with its own code.

`test_readers.py` compares what they read, value by value. `python -m
txn_platform_tests.support.lake_readers` writes their table into `docs/readers.md`.
"""

from __future__ import annotations

import re
from contextlib import chdir
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_PROJECT: Final = Path(__file__).parents[2]
PAGE: Final = _PROJECT / "docs" / "readers.md"
EXAMPLES: Final = _PROJECT / "docs" / "reading.md"
_BEGIN: Final = "<!-- made by python -m txn_platform_tests.support.lake_readers -->\n"
_END: Final = "<!-- end -->\n"

type Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Reader:
    """A program that reads Parquet, and perhaps Delta tables.

    Attributes:
        name: its usual name.
        package: its package.
        parquet: reads one Parquet file; None for a reader of Delta tables only.
        delta: reads a whole Delta table through its log; None where the table's current files are
            read as Parquet.
        large: it is in the extra `readers`, which `make readers` installs, and not in `dev`.
        types: how its types differ from the file's.
    """

    name: str
    package: str
    parquet: Callable[[str], Rows] | None
    delta: Callable[[str], Rows] | None = None
    large: bool = False
    types: str = ""

    @property
    def version(self) -> str:
        """Return the locked version, which is the one that runs."""
        lock = _PROJECT / ("requirements-readers.lock" if self.large else "requirements.lock")
        found = re.search(rf"^{self.package}==(\S+)", lock.read_text("utf-8"), re.MULTILINE)
        assert found, f"{self.package} is not in {lock.name}"
        return found[1]

    def read_delta(self, table: str) -> Rows:
        """Return the rows of a Delta table, in any order."""
        if self.delta is not None:
            return self.delta(table)
        from deltalake import DeltaTable

        assert self.parquet is not None
        return [row for file in DeltaTable(table).file_uris() for row in self.parquet(file)]


def comparable(rows: Rows, columns: Sequence[str], key: str) -> list[tuple[Any, ...]]:
    """Return rows in order, with the same Python values for every reader."""
    plain = [tuple(_plain(row[name]) for name in columns) for row in rows]
    index = columns.index(key)
    return sorted(plain, key=lambda row: (row[index] is None, row[index]))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_pydatetime"):
        value = value.to_pydatetime()
    if hasattr(value, "tolist"):
        value = value.tolist()
    # pandas' nulls.
    if value is None or value != value:  # noqa: PLR0124 - NaN and NaT
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return value


def _by_duckdb(file: str) -> Rows:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        found = connection.read_parquet(file, hive_partitioning=False)
        return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def _by_pandas(file: str) -> Rows:
    import pandas as pd

    return pd.read_parquet(Path(file), engine="pyarrow", partitioning=None).to_dict("records")


def _by_fastparquet(file: str) -> Rows:
    import fastparquet

    parsed: Any = fastparquet.ParquetFile(file)
    rows = parsed.to_pandas().to_dict("records")
    decimals = [
        element.name for element in parsed.schema.schema_elements if element.converted_type == 5
    ]
    return [row | {name: Decimal(f"{row[name]:.2f}") for name in decimals} for row in rows]


def _by_polars(file: str) -> Rows:
    import polars as pl

    return pl.read_parquet(file, hive_partitioning=False, glob=False).to_dicts()


def _delta_by_polars(table: str) -> Rows:
    import polars as pl

    return pl.read_delta(table).to_dicts()


def _by_pyarrow(file: str) -> Rows:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).read().to_pylist()


def _by_datafusion(file: str) -> Rows:
    import datafusion

    context = datafusion.SessionContext()
    context.register_parquet("rows", file)
    return context.sql("select * from rows").to_pylist()


def _delta_by_datafusion(table: str) -> Rows:
    import datafusion
    from deltalake import DeltaTable

    context = datafusion.SessionContext()
    context.register_table("rows", DeltaTable(table))
    return context.sql("select * from rows").to_pylist()


def _by_chdb(file: str) -> Rows:
    return _asked_of_chdb(f"file('{file}', Parquet)")


def _delta_by_chdb(table: str) -> Rows:
    # It reads tables below the working directory only.
    with chdir(table):
        return _asked_of_chdb(f"deltaLakeLocal('{table}')")


def _asked_of_chdb(source: str) -> Rows:
    import chdb

    answer = chdb.query(f"select * from {source}", "ArrowTable")  # noqa: S608
    return answer.to_pylist()


def _by_spark(file: str) -> Rows:
    from pyspark.sql import SparkSession

    spark: Any = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    rows = spark.read.parquet(file)
    # Otherwise the time would become a local time.
    moments = [name for name, kind in rows.dtypes if kind == "timestamp"]
    found = rows.selectExpr(
        "*", *(f"unix_micros({name}) as `{name} in microseconds`" for name in moments)
    ).collect()
    return [_with_moments(row.asDict(), moments) for row in found]


def _with_moments(row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    for name in names:
        micros = row.pop(f"{name} in microseconds")
        row[name] = None if micros is None else pa.scalar(micros, pa.timestamp("us", "UTC")).as_py()
    return row


def _delta_by_deltalake(table: str) -> Rows:
    from deltalake import DeltaTable

    return pa.table(DeltaTable(table).scan()).to_pylist()


READERS: Final = (
    Reader("DuckDB", "duckdb", _by_duckdb),
    Reader("pandas (pyarrow)", "pandas", _by_pandas),
    Reader(
        "fastparquet",
        "fastparquet",
        _by_fastparquet,
        types="amounts are doubles; times are UTC, without a zone",
    ),
    Reader("polars", "polars", _by_polars, _delta_by_polars),
    Reader("pyarrow", "pyarrow", _by_pyarrow),
    Reader("DataFusion", "datafusion", _by_datafusion, _delta_by_datafusion, large=True),
    Reader("chdb (ClickHouse)", "chdb", _by_chdb, _delta_by_chdb, large=True),
    Reader("Spark", "pyspark", _by_spark, large=True),
    Reader("deltalake", "deltalake", None, _delta_by_deltalake),
)


def with_table(page: str) -> str:
    """Return the page with the current table of `READERS`."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + _table() + _END + after


def _table() -> str:
    lines = [
        "| reader | version | published | quarantined | Delta table | types |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for reader in READERS:
        file = "yes" if reader.parquet else ""
        delta = "by its log" if reader.delta else "its files"
        types = reader.types or "as written"
        lines.append(f"| {reader.name} | {reader.version} | {file} | {file} | {delta} | {types} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
