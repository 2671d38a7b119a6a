"""Behaviour of libraries that the code relies on and that their documentation does not promise.

Each test speaks to the library alone. When an upgrade breaks one, its docstring names the code that
rests on it. Some tests show a fault that the code works around: when the library fixes it, the
work-around can go.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import pickle
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import dagster as dg
import dataframely as dy
import deltalake
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import urllib3
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import ProfileNotFound
from botocore.session import Session
from urllib3.connection import HTTPConnection

from txn_platform_tests.support.served_handler import served_by

if TYPE_CHECKING:
    from pathlib import Path


def _written(table: pa.Table, **options: Any) -> pq.ParquetFile:
    file = pa.BufferOutputStream()
    pq.write_table(table, file, **options)
    return pq.ParquetFile(pa.BufferReader(file.getvalue()))


def _is_dictionary_encoded(file: pq.ParquetFile, column: int) -> bool:
    return "RLE_DICTIONARY" in file.metadata.row_group(0).column(column).encodings


def _imports_pandas(code: str) -> bool:
    program = f"import sys; import numpy as np; import pyarrow as pa; {code}"
    program += "; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return done.stdout.strip() == b"True"


# pyarrow


def test_arrays_cross_to_numpy_by_their_buffers_without_pandas() -> None:
    """`arrow/dictionaries.py` moves numbers in this way only."""
    assert not _imports_pandas(
        "numbers = pa.py_buffer(np.array([1, 2]));"
        " column = pa.Array.from_buffers(pa.int64(), 2, [None, numbers]);"
        " assert np.from_dlpack(column.take(column.slice(0, 1)))[0] == 2;"
        " pa.nulls(0, pa.string())"
    )


@pytest.mark.parametrize(
    "code", ["pa.schema([('a', pa.int64())]).empty_table()", "pa.array([1, 2])"]
)
def test_arrays_of_python_values_and_empty_tables_import_pandas(code: str) -> None:
    """The reason for the conversions of `arrow/dictionaries.py`."""
    assert _imports_pandas(code)


def test_a_dictionary_with_equal_values_is_written_as_plain_values() -> None:
    """`arrow/dictionaries.py`: every dictionary that is written holds a value once."""
    indices = pa.array([0, 1, 0, 1], pa.int32())
    table = pa.table(
        {
            "equal": pa.DictionaryArray.from_arrays(indices, pa.array(["a", "a"])),
            "different": pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"])),
        }
    )
    file = _written(table)
    assert not _is_dictionary_encoded(file, 0)
    assert _is_dictionary_encoded(file, 1)


def test_a_list_that_is_named_for_dictionaries_is_written_without_one() -> None:
    """`lake/staging.py`: `use_dictionary` is True, not a list of names, where it can be."""
    table = pa.table({"reasons": [["a"], ["a", "b"]]})
    assert not _is_dictionary_encoded(_written(table, use_dictionary=["reasons"]), 0)
    assert _is_dictionary_encoded(_written(table, use_dictionary=True), 0)


def test_the_schema_of_a_file_can_be_another_than_the_writers() -> None:
    """`lake/staging.py` writes dictionaries, and `ARROW:schema` in the footer says text."""
    encoded = pa.table({"a": pa.array(["x", "x"]).dictionary_encode()})
    plain = pa.schema([pa.field("a", pa.string(), metadata={"description": "b"})])
    file = pa.BufferOutputStream()
    with pq.ParquetWriter(file, encoded.schema, store_schema=False) as writer:
        writer.write_table(encoded)
        described = base64.b64encode(plain.serialize().to_pybytes()).decode("ascii")
        writer.add_key_value_metadata({"ARROW:schema": described})
    read = pq.read_table(pa.BufferReader(file.getvalue()))
    assert read.schema.field("a").equals(plain.field("a"), check_metadata=False)
    assert (read.schema.field("a").metadata or {})[b"description"] == b"b"
    assert read["a"].to_pylist() == ["x", "x"]


def test_a_row_group_is_read_over_one_dictionary() -> None:
    """`lake/parquet.py`: batches of one row group share their dictionaries."""
    names = [f"name {number % 500}" for number in range(20_000)]
    file = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": names}), file)
    read = pq.ParquetFile(pa.BufferReader(file.getvalue()), read_dictionary=["a"])
    (chunk,) = read.read_row_group(0).column("a").chunks
    assert len(chunk.dictionary) == 500
    assert chunk.slice(10_000).dictionary.buffers()[2].address == (
        chunk.slice(0, 10_000).dictionary.buffers()[2].address
    )


def test_an_exception_of_a_handler_of_broken_lines_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`source/decoding.py`: the handler keeps its error and returns "error"."""

    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)

    def handler(_: pa.csv.InvalidRow) -> Any:
        raise RuntimeError("nobody catches it")

    with pytest.raises(pa.ArrowInvalid, match="Expected 2 columns"):
        pa.csv.read_csv(
            io.BytesIO(b"a,b\n1,2\n3\n"),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=handler),
        )
    assert [each.exc_type for each in lost] == [RuntimeError]


# polars


def test_a_name_with_a_zero_character_panics() -> None:
    """`defs/frames.py` refuses such names: a panic is no `Exception`."""
    with pytest.raises(BaseException, match="NulError") as panic:
        pl.DataFrame({"a\0": [1]}).to_arrow()
    assert not isinstance(panic.value, Exception)


def test_python_objects_reach_arrow_as_addresses() -> None:
    """`defs/frames.py` refuses columns of Python objects."""
    frame = pl.DataFrame({"a": pl.Series([object()], dtype=pl.Object)})
    assert frame.to_arrow().schema.field("a").type == pa.binary(8)


class _Provider:
    asked = 0

    def __call__(self) -> tuple[dict[str, str], None]:
        type(self).asked += 1
        return {"aws_access_key_id": "to-be-found", "aws_secret_access_key": "to-be-found"}, None


def test_a_pickled_scan_has_its_credential_provider_and_no_credentials() -> None:
    """`lake/s3_access.py`: credentials are asked for when the frame is read."""
    frame = pl.scan_parquet(
        ["s3://bucket/key"], credential_provider=_Provider(), storage_options={"aws_region": "x"}
    )
    pickled = pickle.dumps(frame)
    assert b"_Provider" in pickled
    assert b"to-be-found" not in pickled
    assert _Provider.asked == 0


# dataframely


class _Ruled(dy.Schema):
    text = dy.String(regex="^a+$", max_length=3, check={"own": lambda text: text != "aa"})
    amount = dy.Decimal(18, 2, min_exclusive=0)
    degrees = dy.Float64(min=-90, max=90)
    absent = dy.String(nullable=True)


def test_the_rules_of_a_column_have_these_names() -> None:
    """`contract/reasons.py` derives the names of reasons from them."""
    rules = {
        name: set(column.validation_rules(pl.col(name)))
        for name, column in _Ruled.columns().items()
    }
    assert rules == {
        "text": {"nullability", "regex", "max_length", "check__own"},
        "amount": {"nullability", "min_exclusive"},
        "degrees": {"nullability", "min", "max", "inf", "nan"},
        "absent": set(),
    }


# urllib3 and http.client


class _Chunked(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")


def test_a_pool_reads_answers_by_the_class_of_its_connections() -> None:
    """`source/transport.py`: deadlines and strict framing are in its own `response_class`."""
    called: list[str] = []

    class Reply(http.client.HTTPResponse):
        def _read_status(self) -> Any:
            called.append("status")
            return super()._read_status()

        def _read_next_chunk_size(self) -> Any:
            called.append("size")
            return super()._read_next_chunk_size()

    class Connection(HTTPConnection):
        response_class = Reply

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    manager = urllib3.PoolManager()
    manager.pool_classes_by_scheme = {"http": Pool}
    with served_by(_Chunked) as url:
        response = manager.request("GET", url, preload_content=False)
        assert response.read(10, decode_content=False) == b"abcde"
        response.close()
    assert called == ["status", "size", "size", "size"]


def test_a_compressed_answer_counts_its_bytes_on_the_wire() -> None:
    """`source/transport.py` bounds how much an answer may grow when it is inflated."""
    sent = gzip.compress(b"a" * 100_000)
    response = urllib3.HTTPResponse(
        io.BytesIO(sent), headers={"Content-Encoding": "gzip"}, preload_content=False
    )
    response.auto_close = False
    assert response.read(decode_content=False) == sent
    assert response.tell() == len(sent)
    # The answer stays open at its end: only another read finds the end.
    assert response.read(1, decode_content=False) == b""


# botocore


def test_a_session_can_be_told_that_there_is_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lake/s3_access.py`: an empty AWS_PROFILE is none."""
    monkeypatch.setenv("AWS_PROFILE", "")
    with pytest.raises(ProfileNotFound):
        Session().get_scoped_config()
    told = Session(session_vars={"profile": (None, None, None, None)})
    assert told.get_scoped_config() == {}


def test_the_endpoint_of_a_profile_is_read_without_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`lake/s3_access.py`: the settings have read the environment already."""
    (tmp_path / "aws").write_text(
        "[profile shop]\nservices = stores\n[services stores]\ns3 =\n  endpoint_url = http://s3\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://of-the-environment")
    session = Session(profile="shop")
    provider = ConfiguredEndpointProvider(
        full_config=session.full_config,
        scoped_config=session.get_scoped_config(),
        client_name="s3",
        environ={},
    )
    assert provider.provide() == "http://s3"


# deltalake


def test_the_files_of_a_table_are_listed_by_these_columns(tmp_path: Path) -> None:
    """`lake/delta.py` counts a window's rows by them."""
    rows = pa.table({"a": [1, 2], "event_hour": pa.array([7, 7], pa.int32())})
    deltalake.write_deltalake(str(tmp_path), rows, partition_by=["event_hour"])
    files = pa.table(deltalake.DeltaTable(str(tmp_path)).get_add_actions(flatten=True))
    assert files["partition.event_hour"].to_pylist() == [7]
    assert files["num_records"].to_pylist() == [2]


def test_a_percent_code_in_a_directory_is_decoded_in_a_part_of_the_paths(tmp_path: Path) -> None:
    """`addresses.py` refuses such a location for a Delta table."""
    with pytest.raises(deltalake.exceptions.DeltaError, match="aAb"):
        deltalake.write_deltalake(str(tmp_path / "a%41b"), pa.table({"a": [1]}))


def test_a_bracket_in_a_directory_panics(tmp_path: Path) -> None:
    """`addresses.py` refuses such a location for a Delta table."""
    with pytest.raises(BaseException, match="InvalidDomainCharacter") as panic:
        deltalake.write_deltalake(str(tmp_path / "a[b"), pa.table({"a": [1]}))
    assert not isinstance(panic.value, Exception)


# Dagster


def test_an_interruption_becomes_a_failure_with_this_name() -> None:
    """`runs.py` raises it again: Dagster keeps it to itself."""

    @dg.op
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    @dg.job
    def one() -> None:
        interrupted()

    result = one.execute_in_process(raise_on_error=False)
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    error = failed.step_failure_data.error
    assert error is not None
    assert error.cls_name == dg.DagsterExecutionInterruptedError.__name__


def test_a_partitions_definition_refuses_a_key_with_its_own_message() -> None:
    """`defs/partitions.py`: a wrong hour is one line on the console."""

    class RefusedError(Exception):
        pass

    class Hours(dg.HourlyPartitionsDefinition):
        def validate_partition_key(self, partition_key: str, context: Any) -> None:
            raise RefusedError(partition_key)

    @dg.asset(partitions_def=Hours(start_date="2026-01-01-00:00"))
    def table() -> None: ...

    with pytest.raises(RefusedError, match="no hour"):
        dg.materialize([table], partition_key="no hour")
