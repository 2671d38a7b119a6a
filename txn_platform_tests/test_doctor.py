"""`txn doctor` about stores that are absent, no S3, lose what they take, or refuse a part."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform.lake.bucket import Bucket
from txn_platform.lake.opening import open_lake
from txn_platform.lake.probe import race
from txn_platform.lake.s3 import S3Lake
from txn_platform.lake.store_errors import StoreError
from txn_platform.settings import load_settings
from txn_platform_tests.support.faulty_store import Fault, FaultyStore, Operation
from txn_platform_tests.support.served_handler import served_by
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

_PAGE = b"<!DOCTYPE html><html><title>Welcome</title><body>It works<br></body></html>"


class _Page(BaseHTTPRequestHandler):
    """Answers with a web page."""

    status: int

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(_PAGE)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(_PAGE)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - the library's names


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A card key and a source: a run needs them beside a store."""
    monkeypatch.setenv("TXN_CARD_KEY", "a key of sixteen bytes and more")
    with served(ServedSource([sent_row(0)])) as there:
        monkeypatch.setenv("GENERATOR_URL", there.url)
        yield


def _doctor() -> tuple[int, list[str]]:
    """The exit code, and the lines about the store without the first words' spaces."""
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    return result.exit_code, [
        line for line in lines if line.split()[1] in {"lake", "store", "delta"}
    ]


def _bucket() -> Bucket:
    lake = open_lake(load_settings())
    assert isinstance(lake, S3Lake)
    return lake.bucket


@pytest.mark.usefixtures("faulty_store")
def test_a_sound_store_is_green() -> None:
    code, lines = _doctor()
    assert code == 0
    assert not [line for line in lines if line.startswith("FAIL")]
    assert lines[0].startswith("ok lake s3://transactions/")


@pytest.mark.usefixtures("faulty_store")
def test_a_closed_port_is_not_green(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    code, lines = _doctor()
    assert code == 1
    (line,) = lines
    assert line.startswith("FAIL lake the store of bucket 'transactions' failed: Could not connect")
    assert "whether AWS_ENDPOINT_URL names it" in line


@pytest.mark.usefixtures("faulty_store")
@pytest.mark.parametrize("status", [200, 404, 502])
def test_a_web_page_is_not_green(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = type("Handler", (_Page,), {"status": status})
    with served_by(handler) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        code, lines = _doctor()
    assert code == 1
    (line,) = lines
    assert line.startswith("FAIL lake bucket 'transactions' is not answered by an S3: a web page")
    assert "Fix AWS_ENDPOINT_URL" in line


def test_a_store_that_loses_what_it_takes_is_not_green(faulty_store: FaultyStore) -> None:
    faulty_store.fail(Operation.PUT, Fault.LOST)
    code, lines = _doctor()
    assert code == 1
    (line,) = lines
    # There is nothing to be read back.
    assert line.startswith("FAIL lake bucket ")


def test_a_store_that_keeps_what_was_there_before_is_not_green(faulty_store: FaultyStore) -> None:
    faulty_store.fail(Operation.PUT, Fault.LOST, after=1)
    code, lines = _doctor()
    assert code == 1
    (line,) = lines
    assert line.startswith("FAIL store objects: what is read is not what was put last")
    assert "use another store" in line


@pytest.mark.parametrize("in_a_race", [True, False])
def test_a_store_that_loses_commits_is_not_green(
    faulty_store: FaultyStore, monkeypatch: pytest.MonkeyPatch, s3_prefix: str, *, in_a_race: bool
) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", "")
    monkeypatch.setenv("DELTA_LAKE_S3_PATH", f"s3://transactions/{s3_prefix}/delta")
    if in_a_race:
        faulty_store.check_then_write = 0.02
    else:
        faulty_store.fail(Operation.PUT, Fault.LOST)
    code, lines = _doctor()
    assert code == 1
    assert lines[-1].startswith("FAIL delta the ")
    assert "se another store" in lines[-1]


def test_several_at_once_are_tried_for_the_lake_too(faulty_store: FaultyStore) -> None:
    faulty_store.check_then_write = 0.02
    code, lines = _doctor()
    assert code == 0
    (line,) = [line for line in lines if "conditional puts" in line]
    assert line.startswith("note ")
    assert "not when several put at once: of 6 that put one object at once" in line


@pytest.mark.parametrize("failing", [6, 13])
def test_a_round_that_failed_says_nothing(
    faulty_store: FaultyStore, s3_prefix: str, failing: int
) -> None:
    faulty_store.fail(Operation.PUT, Fault.SLOW_DOWN, failing)
    assert race(_bucket(), s3_prefix) == ""
    # The later rounds decide.
    faulty_store.fail(Operation.PUT, Fault.SLOW_DOWN, failing)
    faulty_store.check_then_write = 0.02
    assert race(_bucket(), s3_prefix).startswith("of 6 that put one object at once")


def test_rounds_that_all_failed_are_not_sound(faulty_store: FaultyStore, s3_prefix: str) -> None:
    faulty_store.fail(Operation.PUT, Fault.SLOW_DOWN)
    with pytest.raises(StoreError, match=r"SlowDown|503"):
        race(_bucket(), s3_prefix)
    # Five rounds of six writers: a put that fails is not made again within its round.
    assert faulty_store.seen[Operation.PUT] == 30


@pytest.mark.parametrize(
    ("operation", "permission"),
    [
        (Operation.LIST, "s3:ListBucket"),
        (Operation.PUT, "s3:PutObject"),
        (Operation.GET, "s3:GetObject"),
        (Operation.DELETE, "s3:DeleteObject"),
    ],
)
def test_a_permission_that_lacks_is_named(
    faulty_store: FaultyStore, operation: Operation, permission: str
) -> None:
    faulty_store.fail(operation, Fault.DENIED)
    code, lines = _doctor()
    assert code == 1
    (line, *_) = [line for line in lines if line.startswith("FAIL")]
    assert "refused the credentials (AccessDenied for " in line
    assert f"allow them {permission} (deploy/iam: role" in line


@pytest.mark.parametrize("operation", [Operation.ABORT, Operation.UPLOADS])
def test_uploads_that_cannot_be_aborted_are_noted(
    faulty_store: FaultyStore, operation: Operation
) -> None:
    faulty_store.fail(operation, Fault.DENIED)
    code, lines = _doctor()
    assert code == 0
    (line,) = [line for line in lines if "list and abort of uploads" in line]
    assert line.startswith("note ")
    assert "a lifecycle rule" in line


@pytest.mark.usefixtures("faulty_store")
def test_a_bucket_that_is_absent_is_not_green(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", "no-such-bucket")
    code, lines = _doctor()
    assert code == 1
    assert lines == [
        "FAIL lake bucket 'no-such-bucket' does not exist: make it, or fix AWS_BUCKET_NAME"
    ]


def _alert_lines(capsys_output: str) -> list[str]:
    lines = [" ".join(line.split()) for line in capsys_output.splitlines()]
    return [line for line in lines if line.split()[1:2] == ["alerts"]]


def test_alerts_that_are_off_or_cannot_be_sent_are_pointed_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lines() -> tuple[int, list[str]]:
        result = CliRunner().invoke(main, ["doctor"])
        assert "a-secret" not in result.output
        return result.exit_code, _alert_lines(result.output)

    assert lines() == (0, [])
    monkeypatch.setenv("TXN_ALERT_WEBHOOK", "https://example.com/a-secret")
    code, (first, second) = lines()
    assert code == 0
    assert first.startswith("ok alerts go to TXN_ALERT_WEBHOOK (JSON)")
    assert "there is no Dagster home" in second
    home = tmp_path / "dagster-home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    _, (_, second) = lines()
    assert "the sensor alerts is off" in second
    monkeypatch.setenv("TXN_ALERT_WEBHOOK", "slack://a-secret")
    code, (first,) = lines()
    assert code == 1
    assert first.startswith("FAIL alerts TXN_ALERT_WEBHOOK cannot be used")


def test_a_home_that_other_users_may_enter_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a directory for all users, such as /tmp, the permissions stay."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    for home, noted in ((shared, True), (tmp_path / "own", False)):
        monkeypatch.setenv("TXN_HOME", str(home))
        result = CliRunner().invoke(main, ["doctor"])
        assert result.exit_code == 0
        assert ("chmod 700" in result.output) is noted
        assert (" home " in result.output) is noted
