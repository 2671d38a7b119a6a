"""Exports: the same bytes as the service sends, and a file that is complete or absent."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generator_service import wire
from generator_service.export import export
from generator_service.simulator import SCHEMA, Configuration, Simulator, Window
from generator_service.wire import Format
from txn_platform_tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3_600_000_000
START = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
WINDOW = Window(START, START + HOUR)
STREAMS = [Format.NDJSON, Format.CSV, Format.ARROW, Format.PARQUET]


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(Configuration(tps=1, customers=500, merchants=100))


def streamed(simulator: Simulator, form: Format) -> bytes:
    schema = wire.named(SCHEMA, simulator.configuration_hash)
    batches = simulator.batches(WINDOW)
    if form in wire.LINES:
        batches, schema = wire.text_batches(batches), wire.text_schema(schema)
    return b"".join(wire.encode(batches, schema, form))


@pytest.mark.parametrize("form", STREAMS)
def test_a_file_holds_the_window(simulator: Simulator, form: Format, tmp_path: Path):
    path = tmp_path / f"hour.{form}"
    assert export(simulator, WINDOW, form, path) == simulator.count(WINDOW)
    assert path.read_bytes() == streamed(simulator, form)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", STREAMS)
def test_a_stream_gets_the_same_bytes_and_stays_open(simulator: Simulator, form: Format):
    sink = io.BytesIO()
    export(simulator, WINDOW, form, sink)
    assert sink.getvalue() == streamed(simulator, form)


def test_stretches_made_in_parallel_are_the_same_rows(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(wire, "_FIRST_STRETCH", 100)
    monkeypatch.setattr(wire, "_STRETCH", 333)
    path = tmp_path / "hour.parquet"
    export(simulator, WINDOW, Format.PARQUET, path)
    assert (
        pq.read_table(path).to_pylist()
        == pa.Table.from_batches(simulator.batches(WINDOW)).to_pylist()
    )


def test_progress_counts_the_rows(simulator: Simulator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "_FIRST_STRETCH", 100)
    monkeypatch.setattr(wire, "_STRETCH", 1_000)
    seen: list[int] = []
    total = export(simulator, WINDOW, Format.CSV, io.BytesIO(), progress=seen.append)
    assert seen[0] == 100
    assert seen == sorted(seen)
    assert seen[-1] == total


def test_a_failed_export_leaves_the_old_file(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "hour.arrow"
    path.write_bytes(b"the last one")
    batches = Simulator.batches

    def failing(self: Simulator, window: Window, **options: int) -> Iterator[pa.RecordBatch]:
        yield from batches(self, window, **options)
        raise RuntimeError("lost")

    monkeypatch.setattr(Simulator, "batches", failing)
    with pytest.raises(RuntimeError, match="lost"):
        export(simulator, WINDOW, Format.ARROW, path)
    assert path.read_bytes() == b"the last one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_export_leaves_no_final_file(tmp_path: Path):
    path = tmp_path / "year.ndjson"
    code = (
        "import sys; from pathlib import Path\n"
        "from generator_service.export import export\n"
        "from generator_service.simulator import Configuration, Simulator, Window\n"
        "from generator_service.wire import Format\n"
        f"window = Window({START}, {START + 8_760 * HOUR})\n"
        "simulator = Simulator(Configuration(tps=1, customers=500, merchants=100))\n"
        "export(simulator, window, Format.NDJSON, Path(sys.argv[1]))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as running:
        try:
            assert eventually(lambda: any(part.stat().st_size for part in tmp_path.iterdir()))
        finally:
            running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert not path.exists()


def test_a_device_is_written_to_and_not_replaced(simulator: Simulator, tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        export(simulator, Window(START, START + HOUR // 60), Format.CSV, pipe)
        assert os.read(reader, 16) == b"transaction_id,t"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_path_that_cannot_be_written_is_an_os_error(simulator: Simulator, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        export(simulator, WINDOW, Format.CSV, tmp_path / "nowhere" / "hour.csv")


def test_json_is_refused_and_nothing_is_written(simulator: Simulator, tmp_path: Path):
    with pytest.raises(ValueError, match="pages"):
        export(simulator, WINDOW, Format.JSON, tmp_path / "hour.json")
    assert not list(tmp_path.iterdir())
