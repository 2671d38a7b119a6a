"""The log of a run: a line for each object, and a warning for each retry."""

import importlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pkgutil import walk_packages

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

import txn_platform
from txn_platform.cli import main
from txn_platform.definitions import build_defs
from txn_platform.defs.automation import LAND_TRANSACTIONS
from txn_platform.local import stack
from txn_platform.logs import RedactingFilter
from txn_platform_tests.support.served_source import ServedSource, sent_row, served

_PARTITION = "2026-11-01-00:00"
_RETRY = re.compile(
    r"http://127\.0\.0\.1:\d+: the request for \[2026-11-01T00:00:00Z, \S+\) had status 503;"
    r" attempt ([12]) of 6, trying again in \d\.\d s"
)


@pytest.fixture
def failing_twice(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedSource]:
    """A source whose rows are answered with 503 the first two times."""
    with served(ServedSource([sent_row(number) for number in range(3)])) as source:
        answer, left = source.answer, [503, 503]

        def answered(path: str, query: dict[str, str]) -> tuple[int, bytes]:
            if path == "/v1/transactions" and left:
                return left.pop(), b""
            return answer(path, query)

        monkeypatch.setattr(source, "answer", answered)
        monkeypatch.setenv("GENERATOR_URL", source.url)
        yield source


@pytest.mark.usefixtures("failing_twice")
def test_txn_run_warns_of_each_retry_with_its_cause() -> None:
    result = CliRunner().invoke(main, ["run", "--partition", _PARTITION])
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stderr.splitlines() if line.startswith("WARNING: ")]
    found = [_RETRY.fullmatch(line.removeprefix("WARNING: ")) for line in warnings]
    assert [match and match[1] for match in found] == ["1", "2"]
    assert not logging.getLogger("txn_platform").handlers


@pytest.mark.usefixtures("failing_twice")
def test_the_run_page_has_a_line_for_each_object_and_the_retries(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").write_text(stack.DAGSTER_YAML.read_text())
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        job = build_defs().resolve_job_def(LAND_TRANSACTIONS.name)
        result = job.execute_in_process(instance=instance, partition_key=_PARTITION)
        logged = [
            (entry.level, entry.user_message)
            for entry in instance.all_logs(result.run_id)
            if entry.dagster_event is None
        ]
    retries = [message for level, message in logged if level == logging.WARNING]
    assert [bool(_RETRY.search(message)) for message in retries] == [True, True]
    informed = [message for level, message in logged if level == logging.INFO]
    audited = [json.loads(message) for message in informed if message.startswith("{")]
    assert [line["asset"] for line in audited if line["action"] == "publish"] == [
        "raw_transactions",
        "validated_transactions",
        "quarantined_transactions",
        "s3_parquet_transactions",
    ]
    lines = [message for message in informed if not message.startswith("{")]
    said = {line.partition(":")[0]: line for line in lines}
    assert set(said) == {
        "raw_transactions",
        "validated_transactions",
        "quarantined_transactions",
        "s3_parquet_transactions",
    }
    assert re.fullmatch(
        r"s3_parquet_transactions: 3 rows, \d+ bytes in \d+\.\d s, written at /.*/part-0\.parquet",
        said["s3_parquet_transactions"],
    )
    assert not any("4111" in message for _, message in logged)


@pytest.mark.usefixtures("failing_twice")
def test_dagsters_own_command_shows_them_too(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "asset", "materialize", "--select", "*"),
            *("-m", "txn_platform.definitions", "--partition", _PARTITION),
        ],
        env={**os.environ, "TXN_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(_RETRY.findall(ended.stderr)) == 2
    assert "raw_transactions: 3 rows, " in ended.stderr


def test_every_configuration_of_dagster_that_is_shipped_manages_the_loggers() -> None:
    shipped = (Path(stack.__file__).parents[2] / "deploy" / "dagster.yaml").read_text()
    for text in (shipped, stack.DAGSTER_YAML.read_text()):
        logs = yaml.safe_load(text)["python_logs"]
        assert logs == {"managed_python_loggers": ["txn_platform"], "python_log_level": "INFO"}


def test_each_logger_of_the_platform_redacts() -> None:
    for module in walk_packages(txn_platform.__path__, "txn_platform."):
        importlib.import_module(module.name)
    made = {
        name: logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("txn_platform.") and isinstance(logger, logging.Logger)
    }
    assert {"txn_platform.source.client", "txn_platform.lake.uploads"} <= set(made)
    for name, logger in made.items():
        assert any(isinstance(each, RedactingFilter) for each in logger.filters), name
