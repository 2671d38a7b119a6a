"""The configuration for production loads, and has the stated effects."""

import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.testclient import TestClient

import txn_platform
from txn_platform.local.stack import DAGSTER_YAML
from txn_platform.workers.launcher import WorkerRunLauncher

_CHECKOUT = Path(txn_platform.__file__).parents[1]


def _production(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a home with `deploy/dagster.yaml`, but for its storage, which connects at once."""
    monkeypatch.setenv("AWS_BUCKET_NAME", "logs")
    monkeypatch.setenv("TXN_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    monkeypatch.setenv("TXN_MAX_CONCURRENT_RUNS", "7")
    instance = yaml.safe_load((_CHECKOUT / "deploy/dagster.yaml").read_text())
    assert instance.pop("storage")
    (home / "dagster.yaml").write_text(yaml.safe_dump(instance))


def test_the_instance_loads_with_logs_on_s3_and_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _production(tmp_path, monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
        assert instance.run_retries_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert isinstance(instance.run_launcher, WorkerRunLauncher)
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 7


def test_a_checkout_and_the_local_stack_have_the_same_instance() -> None:
    assert (_CHECKOUT / "dagster.yaml").resolve() == DAGSTER_YAML.resolve()


@pytest.mark.parametrize("section", ["telemetry", "python_logs"])
def test_production_shares_the_sections_of_the_local_instance(section: str) -> None:
    production, local = (
        yaml.safe_load(path.read_text())
        for path in (_CHECKOUT / "deploy/dagster.yaml", DAGSTER_YAML)
    )
    assert production[section] == local[section]


@pytest.mark.parametrize("instance", ["deploy/dagster.yaml", "dagster.yaml"])
def test_every_instance_runs_a_partition_once_at_a_time_and_gives_up_lost_runs(
    instance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if instance.startswith("deploy"):
        _production(tmp_path, monkeypatch)
    else:
        shutil.copy(_CHECKOUT / instance, tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as loaded:
        (limit,) = loaded.get_concurrency_config().run_queue_config.tag_concurrency_limits
        assert limit == {
            "key": "dagster/partition",
            "limit": 1,
            "value": {"applyLimitPerUniqueValue": True},
        }
        assert loaded.run_monitoring_enabled
        assert 0 < loaded.run_monitoring_max_runtime_seconds <= 7200
        assert not loaded.telemetry_enabled


# Each is a kind of its own, for which Dagster asks for a permission.
_MUTATIONS = (
    'deletePipelineRun(runId: "a") { __typename }',
    "wipeAssets(assetPartitionRanges: []) { __typename }",
    'shutdownRepositoryLocation(repositoryLocationName: "a") { __typename }',
)


def test_the_webserver_for_viewers_refuses_mutations(tmp_path: Path) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget(), read_only=True) as context,
    ):
        client = TestClient(create_app_from_workspace_process_context(context))
        for mutation in _MUTATIONS:
            answer = client.post("/graphql", json={"query": f"mutation {{ {mutation} }}"}).json()
            (kind,) = {each["__typename"] for each in answer["data"].values()}
            assert kind == "UnauthorizedError"
        assert not client.post("/report_asset_materialization/a").is_success
        assert not instance.fetch_materializations(dg.AssetKey("a"), limit=1).records
