"""The audit log: a line for each publication, removal and reading of a zone in clear."""

import json
import logging
import os
import pwd
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from txn_platform.audit import audited
from txn_platform.card_key import valid_fingerprints
from txn_platform.cli import main
from txn_platform.errors import UserError
from txn_platform.reading import read_transactions
from txn_platform.settings import load_settings
from txn_platform_tests.support.hourly_source import HourlySource

_PARTITION = "2026-11-01-00:00"
_ASSETS = {"raw_transactions", "validated_transactions", "quarantined_transactions"}
_PUBLISHED = "s3_parquet_transactions"


def _txn(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def _lines(home: Path = Path(".txn")) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "audit.log").read_text().splitlines()]


@pytest.fixture
def published(source: HourlySource) -> list[dict[str, Any]]:
    """The lines of a run of one window, which made the first card key before."""
    source.rows = source.rows or []
    result = _txn("run", "--partition", _PARTITION, "--allow-empty")
    assert result.exit_code == 0, result.output
    made, *lines = _lines()
    assert (made["action"], made["step"], made["outcome"]) == ("key_change", "first", "done")
    assert {made["new"]} == valid_fingerprints(load_settings())
    return lines


def test_a_run_has_a_line_for_each_object_and_each_reading_of_a_zone_in_clear(
    published: list[dict[str, Any]],
) -> None:
    assert {line["asset"] for line in published if line["action"] == "publish"} == {
        *_ASSETS,
        _PUBLISHED,
    }
    read = {line["asset"] for line in published if line["action"] == "read"}
    assert read == {"raw_transactions", "quarantined_transactions"}
    assert {line["window"] for line in published} == {_PARTITION}
    assert {line["outcome"] for line in published} == {"done"}
    assert {line["user"] for line in published} == {pwd.getpwuid(os.getuid()).pw_name}
    (run,) = {line["run"] for line in published}
    assert run
    for line in published:
        assert line["object"].endswith("event_date=2026-11-01/event_hour=00/part-0.parquet")
    again = _txn("run", "--partition", _PARTITION, "--allow-empty")
    assert again.exit_code == 0, again.output
    repeated = [line for line in _lines()[1 + len(published) :] if line["action"] == "publish"]
    assert len(repeated) == 4
    assert [line["unchanged"] for line in repeated if line["asset"] == _PUBLISHED] == [True]
    assert {line["run"] for line in repeated} & {run} == set()


def test_readings_and_removals_of_a_person_name_the_user(published: list[dict[str, Any]]) -> None:
    assert _txn("quarantine").exit_code == 0
    (read,) = _lines()[1 + len(published) :]
    assert (read["action"], read["window"], read["run"]) == ("read", _PARTITION, None)
    assert read["asset"] == "quarantined_transactions"
    assert _txn("expire", "--older-than", "1d", "--yes").exit_code == 0
    removed = _lines()[len(published) + 2 :]
    assert {(line["action"], line["asset"], line["remains"]) for line in removed} == {
        ("expire", "raw_transactions", False),
        ("expire", "quarantined_transactions", False),
    }
    assert {line["user"] for line in removed} == {pwd.getpwuid(os.getuid()).pw_name}


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_its_owner_can_read_it_from_the_first_byte(umask: int) -> None:
    before = os.umask(umask)
    try:
        with audited("read"):
            assert Path(".txn/audit.log").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    Path(".txn/audit.log").chmod(0o644)
    with audited("read"):
        assert Path(".txn/audit.log").stat().st_mode & 0o777 == 0o600


def test_nothing_is_published_that_cannot_be_written_down(source: HourlySource) -> None:
    assert not source.requests
    Path(".txn").mkdir()
    Path("elsewhere").touch()
    Path(".txn/audit.log").symlink_to(Path("elsewhere").absolute())
    result = _txn("run", "--partition", _PARTITION, "--allow-empty")
    assert result.exit_code == 1
    assert "the audit log " in result.stderr
    assert "can't be written" in result.stderr
    assert not list(Path(".txn").rglob("part-0.parquet"))
    assert not Path("elsewhere").read_bytes()


def test_a_pipe_in_its_place_is_not_waited_for() -> None:
    Path(".txn").mkdir()
    os.mkfifo(".txn/audit.log", 0o600)
    with pytest.raises(UserError, match=r"audit\.log can't be written"), audited("read"):
        pytest.fail("the block ran")


def test_nothing_is_done_without_room_for_its_line() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # As on a full disk, a file can be opened and not be written.
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, most))
        with pytest.raises(UserError, match=r"audit\.log can't be written"), audited("expire"):
            pytest.fail("the block ran")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_an_action_that_fails_has_its_line_too() -> None:
    with pytest.raises(UserError), audited("expire", window=_PARTITION, note="a\nb"):
        raise UserError("the store does not answer")
    (line,) = _lines()
    assert (line["outcome"], line["window"], line["note"]) == ("failed", _PARTITION, "a\nb")


def test_the_logger_gets_the_same_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "txn_platform.audit"), audited("key_change") as line:
        line["key"] = "1a2b3c4d"
    assert [json.loads(record.getMessage()) for record in caplog.records] == _lines()
    assert _lines()[0]["key"] == "1a2b3c4d"


def test_lines_of_several_processes_stay_whole() -> None:
    writer = (
        "from txn_platform.audit import audited\n"
        "for number in range(50):\n"
        "    with audited('read', number=number, long='x' * 9000): pass\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", writer]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert sorted(line["number"] for line in _lines()) == sorted(list(range(50)) * 3)


def test_card_numbers_that_are_read_in_clear_have_a_line(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_CARD_POLICY", "clear")
    result = _txn("run", "--partition", _PARTITION, "--allow-empty")
    assert result.exit_code == 0, result.output
    before = len(_lines())
    span = ("2026-11-01", "2026-11-01T01:00Z")
    read_transactions(*span, columns=["amount"])
    assert len(_lines()) == before
    read_transactions(*span)
    number = "4111111111111111"
    read_transactions(*span, columns=["amount"], filters=[("card_number", "=", number)])
    lines = _lines()[before:]
    assert [(line["action"], line["asset"], line["windows"]) for line in lines] == [
        ("read", _PUBLISHED, 1)
    ] * 2
    assert number not in json.dumps(lines)
