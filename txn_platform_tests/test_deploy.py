"""What a team copies into production loads, and means what it says."""

import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager

import txn_platform

_DEPLOY = Path(txn_platform.__file__).parents[1] / "deploy"


def test_the_instance_loads_with_logs_on_s3_and_one_run_a_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_BUCKET_NAME", "logs")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    shutil.copy(_DEPLOY / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
        assert not instance.telemetry_enabled
        assert instance.run_retries_enabled
        config = instance.get_concurrency_config()
        (limit,) = config.run_queue_config.tag_concurrency_limits
        assert limit == {
            "key": "dagster/partition",
            "limit": 1,
            "value": {"applyLimitPerUniqueValue": True},
        }
