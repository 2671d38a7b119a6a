"""`txn rotate-card-key`: windows get new tokens, and the others stay joinable."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from txn_platform import read_transactions
from txn_platform.card_key import card_key, fingerprint
from txn_platform.cli import main
from txn_platform.contract.card_numbers import luhn_is_valid
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.local.seaweedfs import REGION
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.served_source import served

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from txn_platform_tests.conftest import S3Endpoint

DAY = "2026-11-19"
KEYS = [f"{DAY}-{hour:02}:00" for hour in range(4)]
LAKE = Path(".txn/lake")
PUBLISHED = LAKE / "s3_parquet_transactions"
TXN = Path(sys.executable).with_name("txn")


def txn(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result


def cards(count: int) -> list[str]:
    """Card numbers with the right check digit."""
    numbers = pl.Series([f"4{number:014}{digit}" for number in range(count) for digit in range(10)])
    return numbers.filter(luhn_is_valid(numbers)).to_list()


def object_of(key: str, asset: str = "s3_parquet_transactions") -> Path:
    date, hour = key.rsplit("-", 1)
    return LAKE / asset / f"event_date={date}" / f"event_hour={hour[:2]}" / "part-0.parquet"


def key_of(key: str, asset: str = "s3_parquet_transactions") -> str:
    notes = pq.read_metadata(object_of(key, asset)).metadata or {}
    return notes[b"card_key_fingerprint"].decode()


def tokens_of(key: str) -> list[str]:
    return pl.read_parquet(object_of(key)).sort("transaction_id")["card_token"].to_list()


def mapping() -> pl.DataFrame:
    # An id of digits alone would be read as a number.
    ids = {"old_key": pl.String(), "new_key": pl.String()}
    return pl.read_parquet(LAKE / "card_token_mappings/**/*.parquet", hive_schema=ids)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a lake and a Delta table of four hours; the first was landed long ago."""
    place = tmp_path_factory.mktemp("published")
    with served(HourlySource([])) as source, pytest.MonkeyPatch.context() as patch:
        assert isinstance(source, HourlySource)
        source.hours.update(_rows())
        patch.chdir(place)
        patch.setenv("GENERATOR_URL", source.url)
        patch.setenv("DELTA_LAKE_S3_PATH", str(place / "table"))
        txn("run", "--from", KEYS[0], "--to", KEYS[-1])
        for asset in ("raw_transactions", "quarantined_transactions"):
            object_of(KEYS[0], asset).unlink()
    return place


@pytest.fixture
def hours(published: Path, source: HourlySource, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four published hours of the same three cards, in the directory of the test."""
    source.hours.update(_rows())
    shutil.copytree(published, Path.cwd(), dirs_exist_ok=True)
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(Path("table").absolute()))
    return KEYS


def _rows() -> dict[str, list[dict[str, str | None]]]:
    return {
        key: [
            row | {"card_number": number}
            for row, number in zip(rows_of(Window.of_partition(key), 3), cards(3), strict=True)
        ]
        for key in KEYS
    }


def test_windows_with_a_raw_object_get_new_tokens_and_the_others_a_mapping(
    hours: list[str], source: HourlySource
) -> None:
    old = card_key(load_settings())
    before = {key: pl.read_parquet(object_of(key)) for key in hours}
    asked = CliRunner().invoke(main, ["rotate-card-key"], input="n\n")
    assert asked.exit_code == 1
    assert re.search(rf"landed: rewritten +3 +{fingerprint(old)} +{hours[1]} to", asked.output)
    assert re.search(rf"not landed: mapped +1 +{fingerprint(old)} +{hours[0]}", asked.output)
    assert card_key(load_settings()) == old
    source.hours.clear()  # It is not asked again.
    done = txn("rotate-card-key", "--yes")
    new = card_key(load_settings())
    assert new != old
    assert [key_of(key) for key in hours] == [fingerprint(old)] + [fingerprint(new)] * 3
    assert key_of(hours[1], "validated_transactions") == fingerprint(new)
    assert "Windows with the new key: 3. Windows that keep theirs: 1." in done.stdout
    retired = Path(".txn") / f"card-key.{fingerprint(old)}"
    assert f"The old key is in {retired}" in done.stdout
    for key in hours[1:]:
        after = pl.read_parquet(object_of(key))
        assert after.drop("card_token").equals(before[key].drop("card_token"))
        assert set(after["card_token"]).isdisjoint(before[key]["card_token"])
    # Every old token joins with the new ones.
    pairs = mapping()
    assert set(pairs["old_token"]) == set(before[hours[0]]["card_token"])
    joined = before[hours[0]].join(pairs, left_on="card_token", right_on="old_token")
    assert joined.sort("transaction_id")["new_token"].to_list() == tokens_of(hours[1])
    (path,) = (LAKE / "card_token_mappings").rglob("*.parquet")
    assert path.parts[-3:-1] == (f"old_key={fingerprint(old)}", f"new_key={fingerprint(new)}")
    lines = [json.loads(line) for line in Path(".txn/audit.log").read_text().splitlines()]
    first, *changes = [line for line in lines if line["action"] == "key_change"]
    assert (first["step"], first["new"]) == ("first", fingerprint(old))
    assert [line["step"] for line in changes] == ["begin", "end"]
    ids = (fingerprint(old), fingerprint(new))
    assert all((line["old"], line["new"]) == ids for line in changes)
    begun, ended = (lines.index(line) for line in changes)
    between = lines[begun:ended]
    read = {line["window"] for line in between if line["action"] == "read" and not line["run"]}
    assert read == set(hours[1:])
    # As restricted as the raw zone.
    for made in (path, *path.parents[:3]):
        assert made.stat().st_mode & 0o077 == 0
    table = pl.DataFrame(DeltaTable("table").to_pyarrow_table())
    for key in hours:
        window = table.filter(pl.col("event_hour") == Window.of_partition(key).start.hour)
        assert window.sort("transaction_id")["card_token"].to_list() == tokens_of(key)


def test_windows_under_several_keys_are_noticed(hours: list[str]) -> None:
    span = (hours[0], f"{DAY}T04:00:00Z")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_transactions(*span).collect().height == 12
    txn("rotate-card-key", "--yes")
    with pytest.warns(UserWarning, match=r"under 2 card keys \(3 under \w{8}, 1 under \w{8}\)"):
        read_transactions(*span)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_transactions(hours[1], span[1])
        read_transactions(*span, columns=["amount"])
    told = CliRunner().invoke(main, ["doctor"]).output
    assert re.search(r"note +card key .*under 2 card keys \(3 under \w{8}, 1 under", told)


def test_given_keys_are_both_valid_until_the_rotation_ends(
    hours: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = card_key(load_settings())
    weak = "0123456789abcdef" * 2
    monkeypatch.setenv("TXN_CARD_KEY", weak)
    refused = txn("rotate-card-key", "--yes", code=1)
    assert "TXN_CARD_KEY_PREVIOUS is not set: make a new key" in refused.output
    monkeypatch.setenv("TXN_CARD_KEY_PREVIOUS", Path(".txn/card-key").absolute().as_uri())
    # Also where a weak key is allowed for now, no new one is weak.
    monkeypatch.setenv("TXN_ALLOW_WEAK_CARD_KEY", "true")
    assert "follows a pattern" in txn("rotate-card-key", "--yes", code=1).output
    new = secrets.token_hex(32)
    monkeypatch.setenv("TXN_CARD_KEY", new)
    states = txn("status", "--from", hours[0], "--to", hours[-1], "--json").stdout
    assert states.count('"state":"published"') == 4
    told = CliRunner().invoke(main, ["doctor"]).output
    assert f"a rotation from {fingerprint(old)} is under way" in told
    done = txn("rotate-card-key", "--yes")
    assert "Unset TXN_CARD_KEY_PREVIOUS" in done.stdout
    assert [key_of(key) for key in hours].count(fingerprint(new.encode())) == 3
    again = txn("rotate-card-key", "--yes")
    assert "Windows with the new key: 3. Windows that keep theirs: 1." in again.stdout
    monkeypatch.setenv("TXN_CARD_KEY_PREVIOUS", new)
    assert "are the same key" in txn("rotate-card-key", "--yes", code=1).output


def test_a_bucket_is_rotated_and_the_mapping_is_encrypted_as_the_raw_zone(
    source: HourlySource,
    s3_servers: Callable[[str], S3Endpoint],
    s3_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = s3_servers("moto")
    for name, value in {
        "AWS_BUCKET_NAME": store.bucket,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": store.url,
        "TXN_LAKE_PREFIX": s3_prefix,
        "TXN_RAW_SSE": "alias/raw-zone",
        "TXN_CARD_KEY": secrets.token_hex(32),
    }.items():
        monkeypatch.setenv(name, value)
    hours = KEYS[:2]
    assert source.url
    txn("run", "--from", hours[0], "--to", hours[1])
    lake = open_lake(load_settings())
    window = Window.of_partition(hours[0])
    for asset in ("raw_transactions", "quarantined_transactions"):
        lake.erase(object_key(asset, window), [""])
    monkeypatch.setenv("TXN_CARD_KEY_PREVIOUS", os.environ["TXN_CARD_KEY"])
    monkeypatch.setenv("TXN_CARD_KEY", secrets.token_hex(32))
    txn("rotate-card-key", "--yes")
    with pytest.warns(UserWarning, match="under 2 card keys"):
        rows = read_transactions(hours[0], f"{DAY}T02:00:00Z").collect()
    (key,) = lake.keys("card_token_mappings")
    pairs = lake.scan([key]).collect()
    assert set(pairs.row(0)) == set(rows["card_token"])
    found = store.client().head_object(Bucket=store.bucket, Key=f"{s3_prefix}/{key}")
    assert found["ServerSideEncryption"] == "aws:kms"


def test_tokens_of_the_key_before_the_last_are_mapped_to_the_newest(hours: list[str]) -> None:
    first = tokens_of(hours[0])
    for _ in range(2):
        txn("rotate-card-key", "--yes")
    newest = fingerprint(card_key(load_settings()))
    pairs = mapping().filter(pl.col("new_key") == newest)
    direct = dict(zip(pairs["old_token"], pairs["new_token"], strict=True))
    assert [direct[token] for token in first] == tokens_of(hours[1])


def test_cards_that_no_raw_object_has_are_counted(hours: list[str]) -> None:
    for key in hours[:3]:
        object_of(key, "raw_transactions").unlink(missing_ok=True)
    object_of(hours[3], "raw_transactions").unlink()
    done = txn("rotate-card-key", "--yes")
    assert "0 tokens mapped" in done.stdout
    assert "Tokens that are not mapped, because no raw object has their cards: 3." in done.stderr


def test_a_window_that_fails_keeps_its_key_and_the_old_key_stays_valid(
    hours: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fingerprint(card_key(load_settings()))
    raw = object_of(hours[2], "raw_transactions")
    whole = raw.read_bytes()
    table = pq.read_table(raw)
    broken = table.set_column(
        table.column_names.index("amount"), "amount", [["a lot"] * table.num_rows]
    )
    notes = {
        name: value
        for name, value in (pq.read_metadata(raw).metadata or {}).items()
        if name != b"ARROW:schema"
    }
    pq.write_table(broken.replace_schema_metadata(notes), raw)
    failed = txn("rotate-card-key", "--yes", code=1)
    assert f"Error: {hours[2]}: " in failed.stderr
    assert "Windows that still have another key: 1." in failed.stderr
    assert key_of(hours[2]) == old
    assert Path(".txn/card-key.previous").exists()
    raw.write_bytes(whole)
    monkeypatch.delenv("DELTA_LAKE_S3_PATH")
    txn("rotate-card-key", "--yes")
    assert key_of(hours[2]) == fingerprint(card_key(load_settings()))
    assert not Path(".txn/card-key.previous").exists()


def test_a_killed_rotation_goes_on(hours: list[str]) -> None:
    _rotate_with_kills(hours, kept=1, kills=1)


@pytest.mark.long
def test_a_rotation_of_two_days_goes_on_after_ten_kills(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = cards(40)
    hours = [f"2026-11-{day}-{hour:02}:00" for day in (18, 19) for hour in range(24)]
    for key in hours:
        source.hours[key] = [
            row | {"card_number": number}
            for row, number in zip(rows_of(Window.of_partition(key), 40), numbers, strict=True)
        ]
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", str(Path("table").absolute()))
    txn("run", "--from", hours[0], "--to", hours[-1])
    for key in hours[:8]:
        for asset in ("raw_transactions", "quarantined_transactions"):
            object_of(key, asset).unlink()
    _rotate_with_kills(hours, kept=8, kills=10)


def _rotate_with_kills(hours: list[str], *, kept: int, kills: int) -> None:
    """Kill a rotation again and again, each time further on, and let it end then."""
    old = card_key(load_settings())
    before = {key: tokens_of(key) for key in hours}
    for kill in range(kills):
        # At first as soon as there is a new key, later in the middle of windows.
        _kill_rotation(hours, old, rewritten=kill * (len(hours) - kept) // kills)
    txn("rotate-card-key", "--yes")
    new = fingerprint(card_key(load_settings()))
    assert [key_of(key) for key in hours] == [fingerprint(old)] * kept + [new] * (len(hours) - kept)
    pairs = mapping().filter(pl.col("new_key") == new)
    direct = dict(zip(pairs["old_token"], pairs["new_token"], strict=True))
    for key in hours:
        joined = [direct[token] for token in before[key]]
        assert tokens_of(key) == (before[key] if key in hours[:kept] else joined)
    table = pl.DataFrame(DeltaTable("table").to_pyarrow_table())
    tokens = {token for key in hours for token in tokens_of(key)}
    assert set(table["card_token"]) == tokens
    _require_no_clear_number(hours)


def _kill_rotation(hours: list[str], old: bytes, *, rewritten: int) -> None:
    """Kill a rotation when it has begun, and has rewritten so many windows."""
    with Path("rotation.log").open("ab") as log:
        process = subprocess.Popen(
            [TXN, "rotate-card-key", "--yes"], stdout=log, stderr=log, env=os.environ
        )

    def come_so_far() -> bool:
        begun = card_key(load_settings()) != old and _rewritten(hours, old) >= rewritten
        return begun or process.poll() is not None

    assert eventually(come_so_far)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _rewritten(hours: list[str], old: bytes) -> int:
    return sum(key_of(key) != fingerprint(old) for key in hours)


def _require_no_clear_number(hours: list[str]) -> None:
    """No file outside the raw zone has a card number."""
    numbers = set(pl.read_parquet(object_of(hours[-1], "raw_transactions"))["card_number"])
    for path in filter(Path.is_file, Path.cwd().rglob("*")):
        if "raw_transactions" in path.parts or "quarantined_transactions" in path.parts:
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += pl.read_parquet(path).write_csv().encode()
        assert not any(number.encode() in content for number in numbers), path
