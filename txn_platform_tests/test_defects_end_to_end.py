"""The proof: the quarantine has the rows with defects, row by row and reason by reason."""

import os
import re
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from txn_platform.contract.card_numbers import luhn_is_valid
from txn_platform.defs import checks
from txn_platform.lake.layout import object_key
from txn_platform.local.processes import ManagedProcess, generator_url, start_generator
from txn_platform.runs import Summary, dagster_instance, materialize
from txn_platform.windows import Window
from txn_platform_tests.support.defect_reasons import reasons_of_defect
from txn_platform_tests.test_commands import run

_WINDOW = Window.of_partition("2026-11-01-18:00")
_HOUR = {"start": "2026-11-01T18:00:00Z", "end": "2026-11-01T19:00:00Z"}


def _generator(**settings: str) -> ManagedProcess:
    population = {"CUSTOMERS": "5000", "MERCHANTS": "1000", "TPS": "3"}
    variables = {f"GENERATOR_{name}": value for name, value in {**population, **settings}.items()}
    return start_generator(environment={**os.environ, **variables})


@pytest.fixture(scope="module")
def injecting() -> Iterator[str]:
    """A generator with defects of every kind in one row of twenty."""
    with _generator(DEFECTS="all:0.05") as generator:
        yield generator_url(generator)


@pytest.fixture(scope="module")
def honest() -> Iterator[str]:
    """The same generator without defects."""
    with _generator() as generator:
        yield generator_url(generator)


def _run(url: str, monkeypatch: pytest.MonkeyPatch, home: str, wire: str = "arrow") -> Summary:
    monkeypatch.setenv("TXN_HOME", home)
    monkeypatch.setenv("TXN_CARD_KEY", "one key for all of these runs")
    monkeypatch.setenv("TXN_MAX_QUARANTINE", "0.2")
    monkeypatch.setenv("GENERATOR_FORMAT", wire)
    with dagster_instance() as instance:
        return materialize(_WINDOW, instance=instance, source_url=url, on_progress=lambda _: None)


def _rows(home: str, asset: str) -> pl.DataFrame:
    return pl.read_parquet(Path(home) / "lake" / object_key(asset, _WINDOW))


def _account(url: str) -> pl.DataFrame:
    """The account of the source: the positions and kinds of defects."""
    query = "&".join(f"{name}={value}" for name, value in _HOUR.items())
    with urllib.request.urlopen(f"{url}/v1/defects?{query}&format=arrow") as answer:
        account = pl.DataFrame(pa.ipc.open_stream(answer).read_all())
    return account.select(pl.col("position").cast(pl.Int64), pl.col("kind").cast(pl.String))


def _expected(account: pl.DataFrame, raw: pl.DataFrame) -> pl.DataFrame:
    """The positions and reasons of the rows that must be quarantined."""
    originals = raw["original_transaction_id"].cast(pl.String)
    rows = [
        (position, reasons)
        for position, kind in account.iter_rows()
        if (reasons := reasons_of_defect(kind, original=originals[position]))
    ]
    schema = {"position": pl.Int64, "reasons": pl.List(pl.String)}
    return pl.DataFrame(rows, schema, orient="row")


@pytest.mark.parametrize("wire", ["arrow", "json", "ndjson", "csv"])
def test_the_quarantine_is_the_account_and_the_rest_is_untouched(
    injecting: str, honest: str, wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = _run(injecting, monkeypatch, "defects", wire)
    _run(honest, monkeypatch, "honest")
    account = _account(injecting)
    assert account["kind"].n_unique() > 35
    expected = _expected(account, _rows("defects", checks.RAW))
    quarantined = _rows("defects", checks.QUARANTINED)
    found = quarantined.select("position", pl.col("reasons").list.sort())
    assert found.sort("position").equals(expected.sort("position"))
    assert summary.sent == summary.published + summary.quarantined
    published = _rows("defects", checks.PUBLISHED)
    clean = _rows("honest", checks.PUBLISHED).filter(
        pl.col("transaction_id").is_in(published["transaction_id"].implode())
    )
    assert published.equals(clean)
    assert published.height == summary.published > 0.9 * summary.sent


def _card_numbers(text: bytes) -> set[bytes]:
    """Return the runs of 13 to 19 digits with a valid check digit.

    The decimals of a number do not count, nor do Dagster's digests of 40 or 64 hexadecimal digits:
    they often contain 13 decimal digits, and some of those have a valid check digit by chance.
    """
    text = re.sub(rb"\b(?=[0-9]*[a-f])([0-9a-f]{40}|[0-9a-f]{64})\b", b"", text)
    runs = set(re.findall(rb"(?<![0-9.])[0-9]{13,19}(?![0-9])", text))
    valid = luhn_is_valid(pl.Series([run.decode() for run in sorted(runs)], dtype=pl.String))
    return {run for run, is_card in zip(sorted(runs), valid, strict=True) if is_card}


def _contents(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file; of a database value by value, because values touch in the file."""
    if path.suffix != ".db":
        yield path.read_bytes()
        return
    with closing(sqlite3.connect(path)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for row in database.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - its own name
                yield from (str(value).encode() for value in row)


def test_card_numbers_are_written_to_raw_and_quarantine_only(
    injecting: str, tmp_path: Path
) -> None:
    """Published objects, Dagster's storage and the output of processes have none."""
    home = tmp_path / "dagster"
    home.mkdir()
    variables = {
        "DAGSTER_HOME": str(home),
        "GENERATOR_URL": injecting,
        "TXN_MAX_QUARANTINE": "0.2",
    }
    partition = ["--partition", _WINDOW.partition_key]
    printed = ""
    for command in (
        ["dagster", "asset", "materialize", "-m", "txn_platform.definitions", "--select", "*"],
        ["txn", "run", "--json"],
        ["txn", "quarantine"],
    ):
        done = run(*command, *partition, environment=variables)
        assert done.returncode == 0, done.stderr
        printed += done.stdout + done.stderr
    assert _card_numbers(printed.encode()) == set()
    stored = {path: b"\n".join(_contents(path)) for path in home.rglob("*") if path.is_file()}
    databases = [text for path, text in stored.items() if path.suffix == ".db"]
    assert any(_WINDOW.partition_key.encode() in text for text in databases)
    assert {path.suffix for path in stored} >= {".err", ".out"}
    for path, text in stored.items():
        assert _card_numbers(text) == set(), path
    for asset in (checks.VALIDATED, checks.PUBLISHED):
        rows = pl.read_parquet(Path(".txn/lake") / object_key(asset, _WINDOW))
        assert _card_numbers(rows.write_csv().encode()) == set()
    raw = pl.read_parquet(Path(".txn/lake") / object_key(checks.RAW, _WINDOW))
    assert len(_card_numbers(raw.write_csv().encode())) > 1000, "the search finds card numbers"
