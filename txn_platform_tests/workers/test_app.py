"""A worker that cannot start says why, in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from txn_platform.errors import UserError
from txn_platform.workers.app import worker_app

_DEPLOYED = Path(__file__).parents[2] / "deploy" / "dagster.yaml"


def test_a_worker_names_a_variable_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text(_DEPLOYED.read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"DAGSTER_POSTGRES_URL is not set"):
        worker_app()


def test_a_worker_needs_an_instance_that_has_work_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"copy deploy/dagster\.yaml there"):
        worker_app()


def test_the_command_of_a_worker_ends_with_one_sentence(tmp_path: Path) -> None:
    worker = [sys.executable, "-m", "celery", "--app", "txn_platform.workers.app", "worker"]
    environment = {name: each for name, each in os.environ.items() if name != "DAGSTER_HOME"}
    ended = subprocess.run(
        worker, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: the Dagster instance cannot be opened: ")
    assert "DAGSTER_HOME" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
