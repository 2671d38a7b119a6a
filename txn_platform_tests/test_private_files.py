"""Files with card numbers in clear, or keys, are for their owner alone; nothing staged stays."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from txn_platform.contract.schema import PUBLISHED, QUARANTINED, RAW, TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.lake.bucket import StoreLimits
from txn_platform.lake.layout import object_key
from txn_platform.lake.opening import open_lake
from txn_platform.lake.parquet import Encoding
from txn_platform.lake.s3 import open_s3_lake
from txn_platform.local.seaweedfs import SeaweedFS, available
from txn_platform.private_files import (
    make_private,
    make_private_directory,
    open_new_private,
    write_private,
)
from txn_platform.rows.reconciliation import ControlTotals
from txn_platform.settings import load_settings
from txn_platform.windows import Window
from txn_platform_tests.conftest import S3Endpoint
from txn_platform_tests.support import forked
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation
from txn_platform_tests.support.served_source import (
    ServedSource,
    landed_rows,
    sent_frame,
    sent_row,
    served,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC))
_PARTITION = ("--partition", _WINDOW.partition_key)
_CLEAR = {"4111111111111111", "5555555555554444"}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_private_directory_and_file_have_no_bit_for_others(tmp_path: Path, mask: int) -> None:
    directory, file = tmp_path / "above" / "private", tmp_path / "file"
    with _umask(mask):
        make_private_directory(directory)
        with open_new_private(file):
            assert _mode(file) == 0o600, "from its first byte"
        write_private(directory / "text", "a key")
    assert _mode(directory) == 0o700
    assert _mode(directory.parent) == 0o777 & ~mask, "published data may be beside it"
    assert _mode(directory / "text") == 0o600
    assert os.listdir(directory) == ["text"]  # noqa: PTH208 - names only


def test_what_exists_loses_the_permissions_of_others(tmp_path: Path) -> None:
    shared = tmp_path / "for all users"
    shared.mkdir()
    for path, mode in ((tmp_path, 0o755), (shared, 0o1777)):
        path.chmod(mode)
        make_private_directory(path)
    assert _mode(tmp_path) == 0o700
    assert _mode(shared) == 0o1777
    make_private(tmp_path / "absent")


def test_neither_a_file_nor_a_link_is_opened_as_new(tmp_path: Path) -> None:
    victim, link, dangling = (tmp_path / name for name in ("victim", "link", "dangling"))
    victim.write_text("kept")
    link.symlink_to(victim)
    dangling.symlink_to(tmp_path / "made by a link")
    for path in (victim, link, dangling):
        with pytest.raises(FileExistsError):
            open_new_private(path)
    write_private(link, "new")
    assert (victim.read_text(), link.is_symlink(), _mode(link)) == ("kept", False, 0o600)
    assert not (tmp_path / "made by a link").exists()


def _run(*arguments: str, umask: int = 0o022) -> None:
    os.umask(umask)
    forked.program("txn", "run", *arguments)


def _ran(*arguments: str) -> tuple[int | None, str]:
    """The exit code of `txn run` under umask 022, and what it printed."""
    outputs = (Path("stdout"), Path("stderr"))
    process = forked.start(
        _run,
        *arguments,
        environment=os.environ,
        directory=Path.cwd(),
        stdout=outputs[0],
        stderr=outputs[1],
    )
    process.join(120)
    process.kill()
    return process.exitcode, "".join(output.read_text() for output in outputs)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedSource]:
    rows = [sent_row(number) for number in range(50)]
    with served(
        ServedSource([*rows, sent_row(60, card_number="5555555555554444", amount="x")])
    ) as (source):
        monkeypatch.setenv("GENERATOR_URL", source.url)
        monkeypatch.setenv("TXN_MAX_QUARANTINE", "0.5")
        yield source


def _holds_secrets(path: Path) -> bool:
    """Whether a file holds a card number in clear, or the card key."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        values = pl.read_parquet(path).select(pl.col("^card_number$").cast(pl.String))
        content = values.write_csv().encode()
    secrets = {*_CLEAR, Path(".txn/card-key").read_text()}
    return any(secret.encode() in content for secret in secrets)


@pytest.mark.parametrize("older", [False, True], ids=["new", "of an older version"])
def test_after_a_run_no_file_with_clear_numbers_or_keys_has_a_bit_for_others(
    source: ServedSource, older: bool
) -> None:
    key = object_key(RAW, _WINDOW)
    if older:
        # As they were made under umask 022.
        for directory in (Path(".txn"), Path(".txn/lake", key).parent):
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        Path(".txn/lake", key).write_bytes(b"older")
    exit_code, printed = _ran(*_PARTITION)
    assert exit_code == 0, printed
    assert _mode(Path(".txn")) == 0o700
    secret = [path for path in Path(".txn").rglob("*") if path.is_file() and _holds_secrets(path)]
    assert {path.relative_to(".txn").parts[-4] for path in secret if len(path.parts) > 2} == {
        RAW,
        QUARANTINED,
    }
    assert Path(".txn/card-key") in secret
    assert {_mode(path) for path in secret} == {0o600}
    private = {path for each in secret for path in each.parents if path.is_relative_to(".txn")}
    private -= {Path(".txn/lake")}
    if older:
        private = {Path(".txn"), Path(".txn/lake", RAW), Path(".txn/lake", QUARANTINED)}
    assert {_mode(path) for path in private} == {0o700}
    published = Path(".txn/lake", object_key(PUBLISHED, _WINDOW))
    assert _mode(published) == 0o644, "published data follows the umask"
    assert _mode(published.parent) == 0o755
    # The same bytes again, over a file that others could read.
    raw = Path(".txn/lake", key)
    raw.chmod(0o644)
    assert _ran(*_PARTITION)[0] == 0
    assert _mode(raw) == 0o600


def test_a_staged_file_is_private_from_its_first_byte() -> None:
    with _umask(0):
        lake = open_lake(load_settings())
        with lake.stage(TRANSACTIONS.raw_schema, Encoding(compression="zstd")) as writer:
            (staged,) = _staged()
            assert (_mode(staged), _mode(staged.parent)) == (0o600, 0o700)
            writer.write(landed_rows([sent_row(1)]))
            writer.finish()
            assert _mode(staged) == 0o600
    assert not staged.exists()


@pytest.mark.skipif(not available(), reason="SeaweedFS is not installed")
def test_what_the_local_s3_stores_has_no_bit_for_others(tmp_path: Path) -> None:
    keys = {"access_key": "an-access-key", "secret_key": "a-secret"}
    data, logs = tmp_path / "data", tmp_path / "logs"
    with (
        _umask(0),
        SeaweedFS.start(data, logs, bucket="transactions", memory_mib=384, **keys) as server,
    ):
        client = S3Endpoint(server.endpoint_url, **keys, bucket="transactions").client()
        client.put_object(Bucket="transactions", Key="card", Body=b"4111111111111111")
        files = [path for path in data.rglob("*") if path.is_file()]
        clear = [path for path in files if b"4111111111111111" in path.read_bytes()]
    assert clear
    assert {_mode(path) for path in clear} == {0o600}
    assert _mode(data) == 0o700


def _staged() -> list[Path]:
    folders = (Path(".txn/staging"), Path(".txn/lake/.staging"))
    return [path for folder in folders if folder.exists() for path in folder.iterdir()]


@pytest.mark.parametrize(
    "failure", ["totals that differ", "too many quarantined", "a folder that refuses"]
)
def test_nothing_staged_stays_after_a_run_that_failed(source: ServedSource, failure: str) -> None:
    match failure:
        case "totals that differ":
            source.totals = replace(ControlTotals.of(sent_frame(source.rows)), rows=99)
        case "too many quarantined":
            source.rows += [sent_row(100 + number, amount="x") for number in range(90)]
        case _:
            # Also for root, which may write into every directory.
            refusing = Path(".txn/lake", object_key(QUARANTINED, _WINDOW))
            refusing.mkdir(parents=True)
    exit_code, printed = _ran(*_PARTITION)
    assert exit_code == 1, printed
    assert "Traceback" not in printed
    assert _staged() == []


@pytest.mark.parametrize(
    "operation", [Operation.PUT, Operation.CREATE, Operation.PART, Operation.COMPLETE]
)
def test_nothing_staged_stays_after_a_publish_that_a_store_refused(
    faulty_store: FaultyStore, operation: Operation
) -> None:
    """Not even when it cannot abort the upload: the marker of the upload is elsewhere."""
    faulty_store.fail(operation, Fault.DENIED)
    faulty_store.fail(Operation.ABORT, Fault.DENIED)
    limits = StoreLimits(part_bytes=64 << 20 if operation is Operation.PUT else 1000)
    lake = open_s3_lake(load_settings(), limits)
    with lake.stage(TRANSACTIONS.raw_schema, Encoding(compression="zstd")) as writer:
        writer.write(landed_rows([sent_row(number) for number in range(200)]))
        staged = writer.finish()
        with pytest.raises(UserError, match="AccessDenied"):
            lake.publish(staged, object_key(RAW, _WINDOW), clear_cards=True)
    assert _staged() == []
    for path in Path(".txn").rglob("*"):
        assert not path.is_file() or not any(card.encode() in path.read_bytes() for card in _CLEAR)
    marked = Path(".txn/uploads")
    assert not marked.exists() or _mode(marked) == 0o700
